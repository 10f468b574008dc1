package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// report is all that was measured.
type report struct {
	Machine string   `json:"machine"`
	Notes   []string `json:"notes,omitempty"`
	Targets []target `json:"targets"`
	Figures []figure `json:"figures"`

	most   int // the largest number of channels that was measured
	values map[string]float64
}

type figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
}

// target is a row of the table of targets, with what came out.
type target struct {
	Name   string  `json:"name"`
	Target string  `json:"target"`
	Value  float64 `json:"value"`
	Met    bool    `json:"met"`
}

func newReport() *report {
	return &report{Machine: machine(), values: make(map[string]float64)}
}

// machine says what this ran on.
func machine() string {
	model, kernel := "unknown processor", ""
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(info)) {
			if name, ok := strings.CutPrefix(line, "model name"); ok {
				model = strings.TrimLeft(strings.TrimSpace(name), ": \t")
				break
			}
		}
	}
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		kernel = ", Linux " + strings.TrimSpace(string(release))
	}
	return fmt.Sprintf("%d processors, %s%s, %s", runtime.NumCPU(), model, kernel, runtime.Version())
}

func (r *report) note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

func (r *report) add(name string, value float64, unit string) {
	r.Figures = append(r.Figures, figure{name, value, unit})
	r.values[name] = value
}

// latencies adds the usual quantiles of times.
func (r *report) latencies(name string, all []time.Duration) {
	slices.Sort(all)
	for _, q := range []struct {
		name string
		at   float64
	}{{"p50", 0.5}, {"p99", 0.99}, {"p999", 0.999}} {
		r.add(name+"/"+q.name, float64(quantile(all, q.at).Nanoseconds())/1000, "µs")
	}
}

func quantile(sorted []time.Duration, q float64) time.Duration {
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

func median(all []float64) float64 {
	slices.Sort(all)
	return all[len(all)/2]
}

// judge holds the figures to the targets.
func (r *report) judge() {
	ratio := func(of, to string) float64 { return r.values[of] / r.values[to] }
	most := fmt.Sprintf("channels-%d/", r.most)
	row := func(name, want string, value float64, met bool) {
		if !math.IsNaN(value) && !math.IsInf(value, 0) { // else it was not measured
			r.Targets = append(r.Targets, target{name, want, value, met})
		}
	}
	atLeast := func(name string, value, least float64) {
		row(name, fmt.Sprintf("≥ %g", least), value, value >= least)
	}
	atMost := func(name string, value, most float64) { row(name, fmt.Sprintf("≤ %g", most), value, value <= most) }
	atLeast("one channel, guest to host, MB/s against a socket relay", ratio("one/from-guest", "relay/from-guest"), 0.8)
	atLeast("one channel, host to guest, MB/s against a socket relay", ratio("one/to-guest", "relay/to-guest"), 0.8)
	for _, size := range sizes {
		for _, q := range []string{"p50", "p99"} {
			name := fmt.Sprintf("/round-trip-%d/%s", size, q)
			atMost(fmt.Sprintf("one channel, round trip of %d bytes, %s against a socket relay", size, q), ratio("one"+name, "relay"+name), 2)
		}
	}
	all := fmt.Sprintf("%d idle channels, ", r.most)
	atMost(all+"KiB private memory each, without ring and spool", r.values[most+"memory"], 8)
	atMost(all+"wake-ups per second", r.values[most+"wakeups"], 0)
	atMost(all+"seconds to attach them", r.values[most+"attach"], 10)
	atMost(fmt.Sprintf("%d channels, 1 %% busy, p99 against one channel", r.most), ratio(most+"busy-1%/p99", "channels-1/busy-1%/p99"), 3)
	atMost(fmt.Sprintf("cost of a byte, %d channels against 10", r.most), ratio(most+"cpu-stream", "channels-10/cpu-stream"), 1.2)
	atMost(fmt.Sprintf("cost of a channel, %d channels against 10", r.most), ratio(most+"cpu-attach", "channels-10/cpu-attach"), 1.2)
}

func (r *report) print(out io.Writer) {
	fmt.Fprintln(out, "machine:", r.Machine)
	for _, n := range r.Notes {
		fmt.Fprintln(out, "note:", n)
	}
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "\nFIGURE\tVALUE\tUNIT")
	for _, f := range r.Figures {
		fmt.Fprintf(w, "%s\t%s\t%s\n", f.Name, short(f.Value), f.Unit)
	}
	fmt.Fprintln(w, "\nROW\tTARGET\tMEASURED\t")
	for _, t := range r.Targets {
		verdict := "short"
		if t.Met {
			verdict = "met"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", t.Name, t.Target, short(t.Value), verdict)
	}
	w.Flush()
}

// short is a number with three digits that matter.
func short(v float64) string {
	switch a := math.Abs(v); {
	case a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func (r *report) save(path string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}
