//go:build xen

package benchhost

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/xenchan/xenchan/internal/rig/xlguest"
)

// rounds is how often each backend is measured, pings how many round trips of a size
// are timed in a round, and tries how often each way to make a domain is. With -short
// they show only that all of it works.
func amount() (rounds, pings, tries int) {
	if testing.Short() {
		return 1, 30, 1
	}
	return 3, 170, 5
}

// qemuProcess is Xen's QEMU in Debian.
const qemuProcess = "xen-qemu-system-i386"

// only is for somebody who works on one of them.
var only = flag.String("only", "", "measure how bytes move over `backends` alone, as in qemu,ring")

// TestBench compares the backends and prints a table and, on a line of its own, JSON.
// It fails when a byte is lost or changed, and when one of our backends is not better
// than QEMU where the difference is far larger than what the machine's load does.
func TestBench(t *testing.T) {
	if err := os.MkdirAll("/var/lock", 0o755); err != nil {
		t.Fatal(err)
	}
	rounds, _, _ := amount()
	report := &Report{Note: fmt.Sprintf("real Xen under emulation, dom0 with %d CPU; medians of %d interleaved rounds, ratios to QEMU's in the same boot", runtime.NumCPU(), rounds)}
	defer show(t, report) // also of a run that fails later
	streams(t, report)
	if *only != "" {
		return
	}
	memory(t, report)
	creates(t, report)
	for _, row := range report.Rows {
		for _, backend := range []string{"daemon", "xenchan-dm"} {
			if bound, ok := sure[row.Name]; ok && row.Ratios[backend] > bound {
				t.Errorf("%s: %s has %.2f times what QEMU has, more than %v", row.Name, backend, row.Ratios[backend], bound)
			}
		}
	}
}

// show prints the report for people and for programs.
func show(t *testing.T, report *Report) {
	if err := report.Table(os.Stdout); err != nil {
		t.Error(err)
	}
	text, err := json.Marshal(report)
	if err != nil {
		t.Error(err)
	}
	fmt.Printf("bench-xen: %s\n", text)
}

// sure are ratios that hold on any machine, however busy.
var sure = map[string]float64{"memory, each further domain": 0.75}

// streams measures all that moves bytes: the same stock guest behind each backend.
func streams(t *testing.T, report *Report) {
	links := openLinks(t)
	s := samples{}
	rounds, _, _ := amount()
	for round := range rounds {
		for _, l := range links {
			if l.backend == Xenconsoled && round > 0 {
				continue // it limits how often it looks at a guest: a round takes half a minute
			}
			begin := time.Now()
			s.measure(t, l)
			t.Logf("%s: %v", l.backend, time.Since(begin).Round(time.Millisecond))
		}
	}
	row := report.Add(rateOut, "KiB/s", 1.5, s[rateOut])
	row.AtLeast = true
	row = report.Add(rateIn, "KiB/s", 1.5, s[rateIn])
	row.AtLeast = true
	for _, size := range []string{rtt1, rtt64} {
		report.Add(size+", median", "ms", 0.8, s[size])
		p99 := map[string][]float64{}
		for backend, all := range s[size] {
			p99[backend] = []float64{Quantile(all, 0.99)}
		}
		report.Add(size+", p99", "ms", 0.6, p99)
	}
	report.Add(cpuOut, "s/MiB", 0.5, s[cpuOut])
	report.Add(cpuIn, "s/MiB", 0.2, s[cpuIn])
	report.Add(cpuPing, "ms", 0.4, s[cpuPing])
}

// openLinks makes a link over each backend.
func openLinks(t *testing.T) (links []*link) {
	var shared *xlguest.Guest // of the daemon and of ring
	ttys := 0
	ours := func() (*xlguest.Guest, string) {
		if shared == nil {
			startDaemon(t)
			shared = xlguest.Start(t, xlguest.Config{Name: "bench"})
		}
		ttys++
		return shared, fmt.Sprintf("/dev/hvc%d", ttys)
	}
	for _, b := range []struct {
		backend string
		open    func() *link
	}{
		{"xenchan-dm", func() *link { return stockLink(t, "xenchan-dm", "xenchan-dm", deviceModel(t)) }}, // no daemon runs yet
		{QEMU, func() *link { return stockLink(t, QEMU, qemuProcess, "") }},
		{Xenconsoled, func() *link { return primaryLink(t) }},
		{"daemon", func() *link {
			g, tty := ours()
			return overTTY(t, "daemon", "xenchan", g, tty, dial(t, attach(t, g.Name(), "connection=socket,name=bench")))
		}},
		{"ring", func() *link {
			g, tty := ours()
			return ringLink(t, g, tty)
		}},
	} {
		if *only == "" || slices.Contains(strings.Split(*only, ","), b.backend) {
			links = append(links, b.open())
		}
	}
	return links
}
