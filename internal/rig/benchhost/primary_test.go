//go:build xen

package benchhost

import (
	"bufio"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/xenchan/xenchan/internal/rig/xlguest"
	"github.com/xenchan/xenchan/xen"
)

// onConsole carries out one line after another that comes over the guest's console. The
// shell has the console as its terminal, so that ^C ends what it runs, where that is let in.
const onConsole = `#!/bin/busybox sh
cat >/tmp/lines <<'END'
trap : INT
echo up
while read -r line; do eval "$line"; done
END
setsid -c sh /tmp/lines </dev/hvc0 >/dev/hvc0 2>/dev/null
exec sleep 1000000
`

// primaryLink is the console that each guest has, which xenconsoled serves. Both ends are
// the same as those of a channel, but it is one for each guest, without a name, belongs to
// its kernel and whoever logs in, takes ^O for itself (see sysRq), and has a terminal for
// its host end, never a socket.
func primaryLink(t *testing.T) *link {
	payload := filepath.Join(t.TempDir(), "payload")
	if err := os.WriteFile(payload, []byte(onConsole), 0o755); err != nil {
		t.Fatal(err)
	}
	config := xlguest.WriteConfig(t, xlguest.Config{Name: Xenconsoled, Files: map[string]string{"/payload": payload}})
	if _, err := xlguest.XL(t.Context(), "create", "-q", config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = xlguest.XL(context.Background(), "destroy", Xenconsoled) })
	id, err := xlguest.XL(t.Context(), "domid", Xenconsoled)
	if err != nil {
		t.Fatal(err)
	}
	dom, err := xen.ParseDomID(strings.TrimSpace(id))
	if err != nil {
		t.Fatal(err)
	}
	tty, err := xlguest.OpenTTY(dom)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tty.Close() })
	await(t, tty, "up\n")
	say := func(t *testing.T, text string) {
		t.Helper()
		if _, err := tty.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	say(t, makeData+"\n")
	answer, err := bufio.NewReader(tty).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	run := func(t *testing.T, script string) {
		say(t, "printf s; "+script+"; printf e\n")
		await(t, tty, "s")
	}
	finish := func(t *testing.T) { await(t, tty, "e") }
	return &link{
		backend: Xenconsoled, host: tty, process: "xenconsoled", sum: checksum(answer),
		start: run, finish: finish,
		echo: func(t *testing.T) (stop func()) {
			run(t, "stty isig noflsh; cat -; stty -isig")
			return func() {
				say(t, "\x03")
				finish(t)
			}
		},
	}
}
