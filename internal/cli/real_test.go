package cli

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/xenchan/xenchan/channel"
)

// volatile is what differs from run to run in a dump of xenstore.
var volatile = []struct {
	re *regexp.Regexp
	to string
}{
	{regexp.MustCompile(`"/dev/pts/[0-9]+"`), `"/dev/pts/N"`},
	{regexp.MustCompile(`/instance = "[A-Z0-9]+"`), `/instance = "ID"`}, // ours, beside libxl's
	{regexp.MustCompile(`/(ring-ref|port) = "[0-9]+"`), `/$1 = "N"`},
}

// The nodes of each channel of the example, as Debian's xenstore-ls shows them,
// are those that libxl writes, with its values and permissions, and none but the
// backend's instance and what the guest says of itself beside them.
func TestXenstoreLs_nodesOfTheExample(t *testing.T) {
	requirePrograms(t)
	config, err := os.ReadFile(repoPath("examples/agent.cfg"))
	if err != nil {
		t.Fatal(err)
	}
	dir := newHost(t, string(config))
	cmd := exec.Command("xenstore-ls", "-fp")
	cmd.Env = append(os.Environ(), "XENSTORED_PATH="+filepath.Join(dir, "xenstored.sock"))
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(out), dir+"/", "HOST/")
	for _, v := range volatile {
		text = v.re.ReplaceAllString(text, v.to)
	}
	var got []string
	for line := range strings.Lines(text) {
		for _, dir := range []string{"/libxl/1/device", "/local/domain/0/backend/console", "/local/domain/1/device"} {
			if strings.HasPrefix(line, dir) && !strings.Contains(line, "/"+channel.GuestNode+" = ") {
				got = append(got, strings.TrimRight(line, "\n"))
			}
		}
	}
	slices.Sort(got)
	golden, err := os.ReadFile("testdata/agent.xenstore")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(strings.TrimSpace(string(golden)), "\n"), got); diff != "" {
		t.Errorf("xenstore differs from libxl's (-want +got):\n%s", diff)
	}
}

// The real guest agent in the guest answers whoever connects to the socket.
func TestQemuGA(t *testing.T) {
	requirePrograms(t)
	dir := newHost(t, `name = "web"
channel = [ "connection=socket,name=org.qemu.guest_agent.0" ]
`)
	state := t.TempDir()
	agent := exec.Command("qemu-ga", "-m", "isa-serial",
		"-p", filepath.Join(dir, "guests/web/xen-channel/org.qemu.guest_agent.0"),
		"-t", state, "-f", filepath.Join(state, "pid"))
	var log bytes.Buffer
	agent.Stdout, agent.Stderr = &log, &log
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		agent.Process.Kill()
		agent.Wait()
		if t.Failed() {
			t.Logf("qemu-ga says: %s", &log)
		}
	}()
	socket := filepath.Join(dir, "run/web/org.qemu.guest_agent.0.sock")
	awaitAgent(t, socket)
	for id := 1; id <= 5; id++ { // each time another client
		conn := dialAgent(t, socket)
		if err := syncAgent(conn, 1000+id); err != nil {
			t.Fatalf("client %d: guest-sync-delimited: %v", id, err)
		}
		answer, err := askAgent(conn, `{"execute":"guest-ping"}`)
		if err != nil || answer != `{"return": {}}` {
			t.Fatalf("client %d: guest-ping: %q, %v", id, answer, err)
		}
		conn.Close()
	}
	// As the help of connect shows it.
	ping := exec.Command("xenchan", "connect", "web", "org.qemu.guest_agent.0", "--host", "sim:"+dir)
	ping.Stdin = strings.NewReader(`{"execute":"guest-ping"}` + "\n")
	if out, err := ping.CombinedOutput(); err != nil || string(out) != `{"return": {}}`+"\n" {
		t.Errorf("xenchan connect: %q, %v", out, err)
	}
}

// agentConn is a client of the guest agent.
type agentConn struct {
	net.Conn
	r *bufio.Reader
}

func dialAgent(t *testing.T, socket string) agentConn {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return agentConn{conn, bufio.NewReader(conn)}
}

// awaitAgent returns when the agent has opened its terminal and made it raw; until
// then the terminal echoes, which looks like no answer.
func awaitAgent(t *testing.T, socket string) {
	t.Helper()
	for id := 1; ; id++ {
		conn := dialAgent(t, socket)
		conn.SetDeadline(time.Now().Add(time.Second))
		err := syncAgent(conn, id)
		conn.Close()
		if err == nil {
			return
		}
		if id == 20 {
			t.Fatalf("the agent does not answer: %v", err)
		}
	}
}

// syncAgent is the handshake that the agent's protocol begins with: what comes
// before the byte 0xff is of no use.
func syncAgent(conn agentConn, id int) error {
	if conn.SetDeadline(time.Now().Add(10*time.Second)) != nil {
		return net.ErrClosed
	}
	answer, err := askAgentRaw(conn, fmt.Sprintf("\xff{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":%d}}", id), true)
	if err != nil {
		return err
	}
	var got struct{ Return int }
	if err := json.Unmarshal([]byte(answer), &got); err != nil || got.Return != id {
		return fmt.Errorf("answer %q, want id %d (%v)", answer, id, err)
	}
	return nil
}

func askAgent(conn agentConn, question string) (string, error) {
	return askAgentRaw(conn, question, false)
}

func askAgentRaw(conn agentConn, question string, delimited bool) (string, error) {
	if _, err := io.WriteString(conn, question+"\n"); err != nil {
		return "", err
	}
	if delimited {
		if _, err := conn.r.ReadBytes(0xff); err != nil {
			return "", err
		}
	}
	line, err := conn.r.ReadString('\n')
	return strings.TrimSpace(line), err
}

// socat is a client like any other, of a socket and of a terminal, at the speed
// of both directions at once.
func TestSocat_bothWays(t *testing.T) {
	requirePrograms(t)
	const size = 1 << 20
	dir := newHost(t, twoChannels)
	tty := xenchanTTY(t, dir, "org.example.tty.0")
	for name, address := range map[string]string{
		"org.example.sock.0": "UNIX-CONNECT:" + filepath.Join(dir, "run/web/org.example.sock.0.sock"),
		"org.example.tty.0":  tty + ",raw,echo=0",
	} {
		t.Run(name, func(t *testing.T) {
			guest := guestTTY(t, dir, name)
			ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
			defer cancel()
			client := exec.CommandContext(ctx, "socat", "-", address)
			in, err := client.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			out, err := client.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := client.Start(); err != nil {
				t.Fatal(err)
			}
			defer client.Wait()
			defer client.Process.Kill()
			defer context.AfterFunc(ctx, func() { guest.Close() })()

			toGuest := transfer(in, guest, size)
			toHost := transfer(guest, out, size)
			if err := <-toGuest; err != nil {
				t.Errorf("host to guest: %v", err)
			}
			if err := <-toHost; err != nil {
				t.Errorf("guest to host: %v", err)
			}
		})
	}
}

// transfer sends random bytes from w to r, and compares the checksums.
func transfer(w io.Writer, r io.Reader, size int) <-chan error {
	done := make(chan error, 1)
	want := make([]byte, size)
	rand.Read(want)
	go func() {
		go w.Write(want) // a failure shows at the other end
		got := make([]byte, size)
		n, err := io.ReadFull(r, got)
		if err == nil && sha256.Sum256(got) != sha256.Sum256(want) {
			err = fmt.Errorf("other bytes arrive than were sent")
		}
		if err != nil {
			err = fmt.Errorf("%d of %d bytes: %w", n, size, err)
		}
		done <- err
	}()
	return done
}

// xenchanTTY is the host's terminal of a channel.
func xenchanTTY(t *testing.T, dir, name string) string {
	t.Helper()
	var rows []struct{ Name, TTY string }
	if err := json.Unmarshal([]byte(xenchan(t, dir, "list", "web", "-o", "json")), &rows); err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		if r.Name == name {
			return r.TTY
		}
	}
	t.Fatalf("%s is not in the list", name)
	return ""
}

// list must stay quick on a host with many domains.
func TestList_manyDomains(t *testing.T) {
	requirePrograms(t)
	const domains, channels = 60, 7
	dir := newHost(t, `name = "web"`)
	var args []string
	for d := 100; d < 100+domains; d++ {
		args = append(args, fmt.Sprintf("/local/domain/%d/name", d), fmt.Sprintf("vm%d", d))
		for c := 1; c <= channels; c++ {
			lib, back := fmt.Sprintf("/libxl/%d/device/console/%d/", d, c), fmt.Sprintf("/local/domain/0/backend/console/%d/%d", d, c)
			args = append(args, lib+"name", fmt.Sprintf("org.example.%d", c), lib+"connection", "pty",
				lib+"backend", back, lib+"frontend", fmt.Sprintf("/local/domain/%d/device/console/%d", d, c))
		}
	}
	write := exec.Command("xenstore-write", args...)
	write.Env = append(os.Environ(), "XENSTORED_PATH="+filepath.Join(dir, "xenstored.sock"))
	if out, err := write.CombinedOutput(); err != nil {
		t.Fatalf("xenstore-write: %v\n%s", err, out)
	}
	begin := time.Now()
	first := xenchan(t, dir, "list")
	took := time.Since(begin)
	if lines := strings.Count(first, "\n"); lines != domains*channels {
		t.Errorf("%d channels, want %d", lines, domains*channels)
	}
	if again := xenchan(t, dir, "list"); again != first {
		t.Errorf("two lists differ:\n%s", cmp.Diff(first, again))
	}
	if took > 10*time.Second {
		t.Errorf("list of %d channels took %v", domains*channels, took)
	}
	t.Logf("list of %d channels: %v", domains*channels, took)
}
