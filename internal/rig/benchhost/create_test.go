//go:build xen

package benchhost

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/xenchan/xenchan/internal/rig/xlguest"
)

// memory measures what each further domain with a channel takes: of QEMU another
// process, of xenchan-dm too where no daemon runs, of the daemon a part of it. The
// guests are paused, so that they need nothing else.
func memory(t *testing.T, report *Report) {
	const more = 3
	s, first := map[string][]float64{}, map[string][]float64{}
	dm := deviceModel(t)
	for _, c := range []struct{ backend, process, dm string }{{QEMU, qemuProcess, ""}, {Xenconsoled, "xenconsoled", ""}, {"xenchan-dm", "xenchan-dm", dm}, {"daemon", "xenchan", ""}} {
		before := pss(t, c.process)
		first[c.backend] = []float64{before}
		for i := range more {
			name := fmt.Sprintf("more-%s-%d", c.backend, i)
			cfg := xlguest.Config{Name: name}
			socket := filepath.Join(t.TempDir(), "s")
			switch c.backend {
			case Xenconsoled: // each domain has its console
				createPaused(t, cfg)
				continue
			case "daemon":
				createPaused(t, cfg)
				out, err := exec.Command("xenchan", "attach", name, "connection=socket,name=bench").CombinedOutput()
				if err != nil {
					t.Fatalf("%v: %s", err, out)
				}
				dial(t, strings.TrimSpace(string(out))).Close()
				continue
			}
			cfg.Extra = stockConfig(c.dm, socket)
			createPaused(t, cfg)
			dial(t, socket).Close()
		}
		s[c.backend] = []float64{(pss(t, c.process) - before) / more}
		for i := range more {
			if _, err := xlguest.XL(t.Context(), "destroy", fmt.Sprintf("more-%s-%d", c.backend, i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	report.Add("memory, first domain", "KiB", 0, first)
	report.Add("memory, each further domain", "KiB", 0.01, s)
}

func createPaused(t *testing.T, c xlguest.Config) {
	t.Helper()
	if _, err := xlguest.XL(t.Context(), "create", "-p", "-q", xlguest.WriteConfig(t, c)); err != nil {
		t.Fatal(err)
	}
}

// pss is the proportional set size of all processes of a name, in KiB, but of those
// that end meanwhile: the last domain's device model, or a command.
func pss(t *testing.T, name string) (total float64) {
	t.Helper()
	for _, pid := range pids(t, name) {
		text, err := os.ReadFile("/proc/" + pid + "/smaps_rollup")
		if errors.Is(err, syscall.ESRCH) || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
				n, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
				if err != nil {
					t.Fatal(err)
				}
				total += n
			}
		}
	}
	return total
}

// ready says on each channel that the guest can use it, as soon as it can.
const ready = `#!/bin/busybox sh
for i in $(seq 3000); do
	for t in 1 2; do
		[ -e /tmp/said$t ] || { ( stty raw -echo && printf up && : >/tmp/said$t ) <>/dev/hvc$t >&0 2>/dev/null; }
	done
	usleep 10000
done
exec sleep 1000000
`

// creates times domains with two channels, until the command returns and until a byte
// of the guest is here. The daemon runs all the time.
func creates(t *testing.T, report *Report) {
	payload := filepath.Join(t.TempDir(), "payload")
	if err := os.WriteFile(payload, []byte(ready), 0o755); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "s")
	config := func(extra string) string {
		return xlguest.WriteConfig(t, xlguest.Config{Name: "created", Extra: extra, Files: map[string]string{"/payload": payload}})
	}
	ways := []struct {
		backend string
		command []string
	}{
		{Xenconsoled, []string{"xl", "create", "-q", config("")}}, // each domain has its console
		{QEMU, []string{"xl", "create", "-q", config(stockConfig("", socket))}},
		{"xenchan-dm", []string{"xl", "create", "-q", config(stockConfig(deviceModel(t), socket))}},
		{"daemon", []string{"xenchan", "create", config(stockConfig("", socket))}},
	}
	until, usable := map[string][]float64{}, map[string][]float64{}
	rounds, _, tries := amount()
	for range tries {
		for _, w := range ways {
			begin := time.Now()
			if out, err := exec.Command(w.command[0], w.command[1:]...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %v\n%s", w.command, err, out)
			}
			until[w.backend] = append(until[w.backend], time.Since(begin).Seconds())
			if w.backend != Xenconsoled && len(usable[w.backend]) < rounds {
				c := dial(t, socket)
				b := make([]byte, 2)
				c.SetReadDeadline(time.Now().Add(time.Minute))
				if _, err := c.Read(b); err != nil || !bytes.HasPrefix([]byte("up"), bytes.TrimRight(b, "\x00")) {
					t.Fatalf("%s: the guest says %q, %v", w.backend, b, err)
				}
				usable[w.backend] = append(usable[w.backend], time.Since(begin).Seconds())
				c.Close()
			}
			if _, err := xlguest.XL(t.Context(), "destroy", "created"); err != nil {
				t.Fatal(err)
			}
		}
	}
	none := Quantile(until[Xenconsoled], 0.5)
	t.Logf("create without a channel: %.2f s, in all %.2f; with xenchan-dm %.2f times that", none, until[Xenconsoled], Quantile(until["xenchan-dm"], 0.5)/none)
	report.Add("create, until xl returns", "s", 0.5, until)
	report.Add("create, until the guest uses the channel", "s", 0, usable)
}
