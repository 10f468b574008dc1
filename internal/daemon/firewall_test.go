package daemon_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/xenchan/xenchan/agent/firewall"
	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/console"
	"github.com/xenchan/xenchan/internal/daemon"
)

const (
	agentPing = `{"execute":"guest-ping"}` + "\n"
	agentDone = `{"return": {}}` + "\n"
)

func ruleSet(t *testing.T, text string) *firewall.Set {
	t.Helper()
	policies, err := firewall.Parse("f", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return &firewall.Set{Policies: policies}
}

// fakeAgent answers each request in a guest, and keeps what it was asked.
type fakeAgent struct{ asked chan string }

func newFakeAgent(c *console.Conn) *fakeAgent {
	a := &fakeAgent{asked: make(chan string, 1000)}
	go func() { // ends with the connection
		for r := bufio.NewReader(c); ; {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			reply := agentDone
			if _, after, ok := strings.Cut(line, `"id":`); ok {
				reply = "\xff{\"return\": " + strings.TrimRight(after, "}\n") + "}\n"
			} else {
				a.asked <- line
			}
			if _, err := io.WriteString(c, reply); err != nil {
				return
			}
		}
	}()
	return a
}

// ask sends a request and returns the reply.
func ask(t *testing.T, c net.Conn, request string) string {
	t.Helper()
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReaderSize(c, 16).ReadString('\n')
	if err != nil {
		t.Fatalf("%s: %q, %v", request, line, err)
	}
	return line
}

// askAnew asks as a new client, which may have come while the socket was made anew.
func (r *rig) askAnew(path string) (c *net.UnixConn, reply string) {
	r.t.Helper()
	r.eventually("a client is served", func() (ok bool) {
		c = r.dial(path)
		_, err := io.WriteString(c, agentPing)
		if err == nil {
			reply, err = bufio.NewReaderSize(c, 16).ReadString('\n')
		}
		return err == nil
	})
	return c, reply
}

// Users may what the files say, each by what the kernel says of them, and the audit
// log has it.
func TestFirewall(t *testing.T) {
	r := newRig(t)
	var log syncBuffer
	r.log = slog.New(slog.NewTextHandler(&log, nil))
	r.rules = firewall.NewCurrent(ruleSet(t, "[[agent]]\nmatch='guest'\nchannel='q.0'\n[[agent.allow]]\nwho='4711'\ncommands='guest-ping'\n[[agent.allow]]\nwho='@4712'\ncommands='guest-info'\n"))
	r.daemon()
	r.check(os.Chmod(filepath.Dir(r.dir), 0o755)) // for other users
	ch := r.attach(channel.Spec{Name: "q.0", Mode: 0o666})
	agent := newFakeAgent(r.boot(ch))
	secret := `{"execute":"guest-set-user-password","arguments":{"password":"c2VjcmV0"}}` + "\n"
	for _, c := range []struct {
		as   syscall.Credential
		want string
	}{
		{syscall.Credential{Uid: 4711, Gid: 4711}, "done no no"},
		{syscall.Credential{Uid: 4711, Gid: 1, Groups: []uint32{4712}}, "done done no"},
		{syscall.Credential{Uid: 1, Gid: 4712}, "no done no"},
		{syscall.Credential{Uid: 0, Gid: 0}, "no no no"},
	} {
		cmd := exec.Command("socat", "-", "UNIX-CONNECT:"+ch.Path)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &c.as}
		cmd.Stderr = t.Output()
		in, err := cmd.StdinPipe()
		r.check(err)
		out, err := cmd.StdoutPipe()
		r.check(err)
		r.check(cmd.Start())
		var got []string
		for _, request := range []string{agentPing, `{"execute":"guest-info"}` + "\n", secret} {
			io.WriteString(in, request)
			var line []byte
			for b := make([]byte, 1); len(line) == 0 || line[len(line)-1] != '\n'; line = append(line, b...) {
				if _, err := out.Read(b); err != nil {
					t.Fatalf("%+v: %q, %v", c.as, line, err)
				}
			}
			switch {
			case string(line) == agentDone:
				got = append(got, "done")
			case bytes.Contains(line, fmt.Appendf(nil, "(%d) by f:1", c.as.Uid)), bytes.Contains(line, fmt.Appendf(nil, "user %d by f:1", c.as.Uid)):
				got = append(got, "no")
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%+v: %v, want %s", c.as, got, c.want)
		}
		in.Close()
		cmd.Wait()
	}
	for len(agent.asked) > 0 {
		request := <-agent.asked
		if !strings.Contains(request, "guest-ping") && !strings.Contains(request, "guest-info") {
			t.Errorf("the agent was asked %q", request)
		}
	}
	text := log.String()
	for _, line := range []string{
		`msg="agent call" domid=1 domain=guest channel=q.0 uid=4711 gid=4711 pid=`, "command=guest-ping decision=allowed by=f:4", "command=guest-info decision=denied by=f:1",
		"command=guest-set-user-password decision=denied", `msg="agent answer" domid=1 domain=guest channel=q.0 uid=1 gid=4712 pid=`, "command=guest-info result=ok took=",
	} {
		if !strings.Contains(text, line) {
			t.Errorf("the log lacks %s", line)
		}
	}
	if strings.Contains(text, "c2VjcmV0") {
		t.Error("a password is in the log")
	}
}

// New rules hold for who is connected; a channel that gets a firewall, or loses it,
// closes whoever it has let in without, and a terminal.
func TestFirewall_changes(t *testing.T) {
	r := newRig(t)
	r.rules = firewall.NewCurrent(&firewall.Set{})
	r.daemon()
	ch := r.attach(channel.Spec{Name: "q.0"})
	other := r.attach(channel.Spec{Name: "other.0"})
	tty := r.attach(channel.Spec{Name: "t.0", Connection: channel.PTY})
	newFakeAgent(r.boot(ch))
	beside := r.dial(other.Path)
	before := r.dial(ch.Path)
	if got := ask(t, before, agentPing); got != agentDone {
		t.Errorf("without rules: %q", got)
	}
	rules := "[[agent]]\nmatch='guest'\nchannel=['q.0', 't.0']\n[[agent.allow]]\nwho='*'\ncommands='%s'\n"
	r.rules.Put(ruleSet(t, fmt.Sprintf(rules, "guest-ping")))
	if n, err := before.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("who was connected before the rules came: %d bytes, %v", n, err)
	}
	r.eventually("the terminal is closed", func() bool { return strings.Contains(r.row(tty).Problem, "connection=socket") })
	c, got := r.askAnew(ch.Path)
	if got != agentDone {
		t.Errorf("allowed: %q", got)
	}
	r.rules.Put(ruleSet(t, fmt.Sprintf(rules, "guest-info")))
	r.eventually("the next rules hold", func() bool { return strings.Contains(ask(t, c, agentPing), "not allowed") })

	// The domain has another name while it arrives; then it gets one that no rule is for.
	node := fmt.Sprintf("/local/domain/%v/name", r.dom.ID)
	r.check(r.store.Write(t.Context(), node, "guest--incoming"))
	time.Sleep(50 * time.Millisecond) // for what must not happen
	if got := ask(t, c, agentPing); !strings.Contains(got, "not allowed") {
		t.Errorf("while it arrives: %q", got)
	}
	r.check(r.store.Write(t.Context(), node, "free"))
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("who was connected under rules: %d bytes, %v", n, err)
	}
	if _, got := r.askAnew(ch.Path); got != agentDone {
		t.Errorf("without rules again: %q", got)
	}
	r.eventually("the terminal is back", func() bool { return r.row(tty).Problem == "" })

	// Nobody else has noticed.
	front := r.boot(other)
	r.write(front, []byte("hello"))
	r.expect(beside, []byte("hello"))
}

// A guest that says anything at all, and much of it, gets nothing to the client but
// replies, and the daemon keeps no more than a line of it.
func TestFirewall_hostileGuest(t *testing.T) {
	r := newRig(t)
	r.rules = firewall.NewCurrent(ruleSet(t, "[[agent]]\nmatch='*'\nchannel='q.0'\nmax_line=65536\n[[agent.allow]]\nwho='*'\ncommands='*'\n"))
	r.daemon()
	ch := r.attach(channel.Spec{Name: "q.0"})
	guest := r.boot(ch)
	c := r.dial(ch.Path)
	r.write(c, []byte("\xff{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":77}}\n"+agentPing))
	r.expect(guest, []byte("\xff{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":77}}\n"+agentPing))
	for _, said := range []string{
		agentDone, "\x1b[2Jlogin: \n", strings.Repeat("x", 1<<20), "\n{\"return\": ", "\xff{\"return\": 77}\n", strings.Repeat("[", 100_000) + "\n", agentDone + agentDone + agentDone,
	} {
		r.write(guest, []byte(said))
	}
	// The line that is too long answers the ping, as it may have been meant so.
	r.expect(c, []byte("\xff{\"return\": 77}\n{\"error\":{\"class\":\"GenericError\",\"desc\":\"xenchan: the guest's reply to guest-ping has more than 65536 bytes (max_line of f:1)\"}}\n"))
	r.write(c, []byte(agentPing))
	r.expect(guest, []byte(agentPing))
	r.write(guest, []byte(agentDone))
	r.expect(c, []byte(agentDone))
}

// Who asks for what it may not, does so no faster than ten times a second.
func TestFirewall_logIsBounded(t *testing.T) {
	r := newRig(t)
	r.rules = firewall.NewCurrent(ruleSet(t, "[[agent]]\nmatch='*'\nchannel='q.0'\n"))
	r.daemon()
	ch := r.attach(channel.Spec{Name: "q.0"})
	r.boot(ch)
	c := r.dial(ch.Path)
	start := time.Now()
	for range 5 {
		if got := ask(t, c, agentPing); !strings.Contains(got, "not allowed") {
			t.Fatal(got)
		}
	}
	if took := time.Since(start); took < 400*time.Millisecond {
		t.Errorf("five refusals within %v", took)
	}
}

// An observer would see the replies to others: there is none where there are rules.
func TestFirewall_noObserver(t *testing.T) {
	r := newRig(t)
	r.rules = firewall.NewCurrent(&firewall.Set{})
	r.daemon()
	ch := r.attach(channel.Spec{Name: "q.0"})
	guest := r.boot(ch)
	seen, ended := make(chan daemon.Observed, 10), make(chan error, 1)
	observe := func() {
		ended <- r.public(ch).Observe(t.Context(), func(o daemon.Observed) error { seen <- o; return nil })
	}
	go observe()
	<-seen // it is there
	r.rules.Put(ruleSet(t, "[[agent]]\nmatch='*'\nchannel='q.0'\n"))
	if err := <-ended; err == nil || errors.Is(err, daemon.ErrRefused) {
		t.Errorf("who was there before the rules: %v", err)
	}
	r.write(guest, []byte("secret"))
	r.eventually("it is refused", func() bool { // first its socket is made anew
		go observe()
		err := <-ended
		return errors.Is(err, daemon.ErrRefused) && strings.Contains(err.Error(), "f:1 says who may ask")
	})
	if len(seen) > 0 {
		t.Errorf("it saw %q", (<-seen).Data)
	}
}
