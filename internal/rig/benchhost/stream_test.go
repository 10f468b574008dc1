//go:build xen

package benchhost

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	mebi = 1 << 20
	// toHost and toGuest are bytes of one transfer. QEMU needs seconds for one to the guest.
	toHost  = mebi / 2
	toGuest = mebi / 8
)

// sysRq, on the primary console, makes the next byte a command to the guest's kernel; both
// are lost. No guest is sent it, so that all are sent the same.
const sysRq = '\x0f'

// dataFile is what guests send; each has its own random bytes.
const dataFile = "/tmp/data"

// makeData makes the file in a guest, once, and says its checksum.
var makeData = fmt.Sprintf("[ -e %[1]s ] || dd if=/dev/urandom of=%[1]s bs=65536 count=%[2]d 2>/dev/null; md5sum <%[1]s", dataFile, toHost/65536)

// checksum is that in the answer of md5sum.
func checksum(answer string) string {
	sum, _, _ := strings.Cut(answer, " ")
	return sum
}

// samples are results by metric and backend.
type samples map[string]map[string][]float64

func (s samples) add(metric, backend string, values ...float64) {
	if s[metric] == nil {
		s[metric] = map[string][]float64{}
	}
	s[metric][backend] = append(s[metric][backend], values...)
}

// The metrics of measure.
const (
	rateOut, rateIn = "guest→host", "host→guest"
	cpuOut, cpuIn   = "CPU guest→host", "CPU host→guest"
	rtt1, rtt64     = "round trip, 1 byte", "round trip, 64 bytes"
	cpuPing         = "CPU per round trip"
)

// measure is one round over one link.
func (s samples) measure(t *testing.T, l *link) {
	t.Helper()
	begin := time.Now()
	s.toHost(t, l)
	out := time.Since(begin)
	s.toGuest(t, l)
	in := time.Since(begin) - out
	t.Logf("%s: to the host %v, to the guest %v", l.backend, out.Round(time.Millisecond), in.Round(time.Millisecond))
	stop := l.echo(t)
	_, pings, _ := amount()
	ping(t, l.host, 1) // it has started
	before := cpu(t, l.process)
	s.add(rtt1, l.backend, pingAll(t, l.host, 1)...)
	spent := cpu(t, l.process) - before
	s.add(rtt64, l.backend, pingAll(t, l.host, 64)...)
	stop()
	if l.process != "" {
		s.add(cpuPing, l.backend, spent.Seconds()*1e3/float64(pings))
	}
}

// toHost times what a guest sends, from its first byte to its last.
func (s samples) toHost(t *testing.T, l *link) {
	t.Helper()
	before := cpu(t, l.process)
	l.start(t, "cat "+dataFile)
	got := make([]byte, toHost)
	first, err := l.host.Read(got)
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if _, err := io.ReadFull(l.host, got[first:]); err != nil {
		t.Fatal(err)
	}
	took := time.Since(begin)
	spent := cpu(t, l.process) - before
	l.finish(t)
	if h := md5.Sum(got); hex.EncodeToString(h[:]) != l.sum {
		t.Errorf("%s: what the guest sent has arrived changed", l.backend)
	}
	s.add(rateOut, l.backend, float64(toHost-first)/1024/took.Seconds())
	if l.process != "" {
		s.add(cpuOut, l.backend, spent.Seconds()*mebi/toHost)
	}
}

// toGuest times what the host sends, until the guest says that it has it all.
func (s samples) toGuest(t *testing.T, l *link) {
	t.Helper()
	data := make([]byte, toGuest)
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(data)
	for i := range data {
		if data[i] == sysRq {
			data[i] = 0
		}
	}
	// The echo of the sum ends it, so that the time is the guest's, and not that of a question.
	l.start(t, fmt.Sprintf("head -c %d >/tmp/in; echo k; md5sum </tmp/in", toGuest))
	before := cpu(t, l.process)
	begin := time.Now()
	if _, err := l.host.Write(data); err != nil {
		t.Fatal(err)
	}
	await(t, l.host, "k")
	took := time.Since(begin)
	spent := cpu(t, l.process) - before
	answer := make([]byte, 1+2*md5.Size)
	if _, err := io.ReadFull(l.host, answer); err != nil {
		t.Fatal(err)
	}
	await(t, l.host, "-\n")
	l.finish(t)
	if h := md5.Sum(data); strings.TrimSpace(string(answer)) != hex.EncodeToString(h[:]) {
		t.Errorf("%s: the guest has got something else than was sent: %q", l.backend, answer)
	}
	s.add(rateIn, l.backend, float64(toGuest)/1024/took.Seconds())
	if l.process != "" {
		s.add(cpuIn, l.backend, spent.Seconds()*mebi/toGuest)
	}
}

// pingAll times round trips, in milliseconds.
func pingAll(t *testing.T, c io.ReadWriter, size int) (all []float64) {
	t.Helper()
	_, pings, _ := amount()
	for range pings {
		all = append(all, ping(t, c, size))
	}
	return all
}

func ping(t *testing.T, c io.ReadWriter, size int) float64 {
	t.Helper()
	sent, got := bytes.Repeat([]byte{'p'}, size), make([]byte, size)
	begin := time.Now()
	if _, err := c.Write(sent); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatal(err)
	}
	took := time.Since(begin)
	if !bytes.Equal(sent, got) {
		t.Fatalf("sent %q, got %q", sent, got)
	}
	return took.Seconds() * 1e3
}

// pids are the processes of a name.
func pids(t *testing.T, name string) []string {
	t.Helper()
	out, err := exec.Command("pidof", name).Output()
	if err != nil {
		t.Fatalf("no process %s", name)
	}
	return strings.Fields(string(out))
}

// cpu is the time that all threads of the processes of a name have run.
func cpu(t *testing.T, name string) (total time.Duration) {
	t.Helper()
	if name == "" {
		return 0
	}
	for _, pid := range pids(t, name) {
		files, _ := filepath.Glob("/proc/" + pid + "/task/*/schedstat")
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				continue // a thread that has ended
			}
			ns, _, _ := strings.Cut(string(text), " ")
			n, err := strconv.ParseInt(ns, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			total += time.Duration(n)
		}
	}
	return total
}
