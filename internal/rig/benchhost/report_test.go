package benchhost

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestReport(t *testing.T) {
	r := Report{Note: "here"}
	row := r.Add("rate", "KiB/s", 1.5, map[string][]float64{QEMU: {900, 1000, 1100}, "daemon": {1600}, "xenchan-dm": {1, 1400, 9000}, "ring": {}, Xenconsoled: {300}})
	row.AtLeast = true
	r.Add("time", "s", 0.5, map[string][]float64{QEMU: {2}, "daemon": {1.2}})
	r.Add("memory", "KiB", 0, map[string][]float64{"daemon": {0.05}})
	if !row.Met("daemon") || row.Met("xenchan-dm") || !row.Met("ring") || r.Rows[1].Met("daemon") {
		t.Error("targets are not judged as they should be")
	}
	var b strings.Builder
	if err := r.Table(&b); err != nil {
		t.Fatal(err)
	}
	want := `here
        UNIT   QEMU  XENCONSOLED   DAEMON          XENCHAN-DM     RING  TARGET
rate    KiB/s  1000  300 (0.300×)  1600 (1.60×)    1400 (1.40×)!  -     ≥ 1.5×
time    s      2.00  -             1.20 (0.600×)!  -              -     ≤ 0.5×
memory  KiB    -     -             0.0500          -              -     -
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestQuantile(t *testing.T) {
	s := []float64{5, 1, 4, 2, 3}
	for q, want := range map[float64]float64{0: 1, 0.5: 3, 0.99: 5, 1: 5, 0.2: 1, 0.21: 2} {
		if got := Quantile(s, q); got != want {
			t.Errorf("quantile %v: %v, want %v", q, got, want)
		}
	}
}
