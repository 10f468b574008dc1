// Package benchhost compares, in one boot of the rig, everything that can serve a
// guest's channel: QEMU as stock Xen starts it, the daemon, and xenchan-dm by itself.
// `make bench-xen` runs it; see docs/performance.md.
package benchhost

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
)

// QEMU is the backend that the others are compared with.
const QEMU = "qemu"

// Xenconsoled is Xen's own program for the primary console of each guest.
const Xenconsoled = "xenconsoled"

// Backends are the columns of the table, in order. "ring" is a backend that only
// moves bytes between the ring and its own memory: what is left is the guest's share,
// the hypervisor's and the event channel's.
var Backends = []string{QEMU, Xenconsoled, "daemon", "xenchan-dm", "ring"}

// Row is one thing that was measured.
type Row struct {
	// Name and Unit say what, as in "round trip, 1 byte, median" and "ms".
	Name string `json:"name"`
	Unit string `json:"unit"`
	// Target is the bound on our backends' ratio to QEMU's, and AtLeast says that
	// it is a lower one. 0 is no target.
	Target  float64 `json:"target,omitempty"`
	AtLeast bool    `json:"at_least,omitempty"`
	// Values are medians, by backend; one that is missing was not measured.
	Values map[string]float64 `json:"values"`
	// Ratios are the values by that of QEMU.
	Ratios map[string]float64 `json:"ratios"`
}

// Report is what one run has measured.
type Report struct {
	// Note says where and with how much.
	Note string `json:"note"`
	Rows []*Row `json:"rows"`
}

// Add adds a row of medians and returns it.
func (r *Report) Add(name, unit string, target float64, samples map[string][]float64) *Row {
	row := &Row{Name: name, Unit: unit, Target: target, Values: map[string]float64{}, Ratios: map[string]float64{}}
	for backend, all := range samples {
		if len(all) > 0 {
			row.Values[backend] = Quantile(all, 0.5)
		}
	}
	if base := row.Values[QEMU]; base > 0 {
		for backend, v := range row.Values {
			row.Ratios[backend] = v / base
		}
	}
	r.Rows = append(r.Rows, row)
	return row
}

// Met reports whether a backend's ratio is within the target; true where there is none.
func (r *Row) Met(backend string) bool {
	ratio, ok := r.Ratios[backend]
	switch {
	case r.Target == 0 || !ok:
		return true
	case r.AtLeast:
		return ratio >= r.Target
	default:
		return ratio <= r.Target
	}
}

// Quantile is a quantile of samples, q from 0 to 1, by the nearest rank.
func Quantile(samples []float64, q float64) float64 {
	s := slices.Sorted(slices.Values(samples))
	rank := int(math.Ceil(q * float64(len(s))))
	return s[min(max(rank, 1), len(s))-1]
}

// Table writes the rows for people: each value with its ratio to QEMU's, and the
// target beside them; a ratio that misses it has a "!".
func (r *Report) Table(out io.Writer) error {
	fmt.Fprintln(out, r.Note)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "\tUNIT\t%s\tTARGET\n", strings.ToUpper(strings.Join(Backends, "\t")))
	for _, row := range r.Rows {
		fmt.Fprintf(w, "%s\t%s", row.Name, row.Unit)
		for _, b := range Backends {
			fmt.Fprintf(w, "\t%s", row.cell(b))
		}
		fmt.Fprintf(w, "\t%s\n", row.target())
	}
	return w.Flush()
}

func (r *Row) cell(backend string) string {
	v, ok := r.Values[backend]
	if !ok {
		return "-"
	}
	s := number(v)
	if ratio, ok := r.Ratios[backend]; ok && backend != QEMU {
		s += fmt.Sprintf(" (%s×)", number(ratio))
		if !r.Met(backend) && judged(backend) {
			s += "!"
		}
	}
	return s
}

// judged says that the targets are for this backend.
func judged(backend string) bool { return backend == "daemon" || backend == "xenchan-dm" }

func (r *Row) target() string {
	switch {
	case r.Target == 0:
		return "-"
	case r.AtLeast:
		return fmt.Sprintf("≥ %g×", r.Target)
	default:
		return fmt.Sprintf("≤ %g×", r.Target)
	}
}

// number has three significant digits.
func number(v float64) string {
	if math.Abs(v) >= 1000 {
		return fmt.Sprintf("%.0f", v)
	}
	digits := 2 - cmp.Or(int(math.Floor(math.Log10(math.Max(math.Abs(v), 1e-3)))), 0)
	return fmt.Sprintf("%.*f", min(max(digits, 0), 4), v)
}
