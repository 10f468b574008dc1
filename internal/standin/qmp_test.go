package standin

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// converse starts a QMP server and returns a client that has read its greeting.
func converse(t *testing.T) (ask func(string) string, quit chan struct{}) {
	t.Helper()
	quit = make(chan struct{}, 1)
	path := filepath.Join(t.TempDir(), "qmp")
	l := &Loop{
		Request: Request{Chardevs: []Chardev{{ID: "libxl-channel1"}}, Monitors: []Monitor{{ID: "m", Path: path}}},
		TTYs:    func() map[int]string { return map[int]string{1: "/dev/pts/7"} }, Log: func(what string) { t.Log(what) },
	}
	if err := l.Listen(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		done <- l.Run()
		if l.quit {
			quit <- struct{}{}
		}
	}()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		l.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		l.Close()
	})
	r := bufio.NewReader(conn)
	read := func() string {
		line, err := r.ReadString('\n')
		if err != nil {
			return err.Error()
		}
		if !strings.HasSuffix(line, "\r\n") {
			t.Errorf("line without CRLF: %q", line)
		}
		return strings.TrimSpace(line)
	}
	var hello struct {
		QMP struct {
			Version struct {
				QEMU map[string]int `json:"qemu"`
			} `json:"version"`
			Capabilities []string `json:"capabilities"`
		}
	}
	if err := json.Unmarshal([]byte(read()), &hello); err != nil || hello.QMP.Version.QEMU["major"] == 0 || hello.QMP.Capabilities == nil {
		t.Fatalf("greeting: %+v, %v", hello, err)
	}
	return func(s string) string {
		if _, err := fmt.Fprint(conn, s); err != nil {
			return err.Error()
		}
		return read()
	}, quit
}

// The conversation that libxl of 4.17 holds before it goes on with a domain, its
// numbers included, and what else libxl and people may ask for.
func TestQMP(t *testing.T) {
	place := regexp.MustCompile(`unix:[^,]*,`)
	ask, quit := converse(t)
	for _, step := range [][2]string{
		{`{"execute":"query-chardev","id":1}`, `{"error":{"class":"CommandNotFound","desc":"Expecting capabilities negotiation with 'qmp_capabilities'"},"id":1}`},
		{"{\"execute\":\"qmp_capabilities\",\"id\":2020372736}\r\n", `{"return":{},"id":2020372736}`},
		{"{\"execute\":\"query-chardev\",\"id\":2020372737}\r\n", `{"return":[{"label":"m","filename":"unix:PATH,server=on","frontend-open":true},{"label":"libxl-channel1","filename":"pty:/dev/pts/7","frontend-open":true}],"id":2020372737}`},
		{`{"execute":"query-command-line-options"}`, `{"return":[]}`},
		{`{"execute":"query-status","id":"text"}`, `{"return":{"running":true,"singlestep":false,"status":"running"},"id":"text"}`},
		{`{"execute":"device_add","arguments":{"driver":"x"},"id":3}`, `{"error":{"class":"CommandNotFound","desc":"The command device_add has not been found"},"id":3}`},
		{`{"execute":"cont"}`, `{"return":{}}`},
	} {
		if diff := cmp.Diff(step[1], place.ReplaceAllString(ask(step[0]), "unix:PATH,")); diff != "" {
			t.Errorf("%s: -want +got\n%s", step[0], diff)
		}
	}
	for _, name := range commands[1:] {
		if name == "quit" {
			continue
		}
		if got := ask(fmt.Sprintf(`{"execute":%q}`, name)); !strings.HasPrefix(got, `{"return":`) {
			t.Errorf("%s, which query-commands lists: %s", name, got)
		}
	}
	if got := ask(`{"execute":"quit"}`); got != `{"return":{}}` {
		t.Errorf("quit: %s", got)
	}
	<-quit
}

func TestQMP_nonsense(t *testing.T) {
	for _, text := range []string{"nonsense\n", `{"execute":7}`, strings.Repeat(" ", maxMessage) + "{}"} {
		ask, _ := converse(t)
		if got := ask(text); !strings.Contains(got, "Invalid JSON") && got != "EOF" && !strings.Contains(got, "reset") && !strings.Contains(got, "broken pipe") {
			t.Errorf("%.20q: %s", text, got)
		}
	}
}

// Whatever a client says gets whole lines of JSON, each an answer, and ends with what
// it says. The device model ends only when it was asked to.
func FuzzQMP(f *testing.F) {
	for _, name := range commands {
		f.Add([]byte(`{"execute":"qmp_capabilities"}{"id":[1],"execute":"` + name + `"}`))
	}
	f.Add([]byte("{} [ nonsense"))
	f.Fuzz(func(t *testing.T, said []byte) {
		quits := 0
		q := &talk{qmp: &qmp{chardevs: func() []chardevInfo { return nil }, quit: func() { quits++ }}}
		heard, over := q.hear(said[:len(said)/2])
		if !over {
			more, _ := q.hear(said[len(said)/2:])
			heard = append(heard, more...)
		}
		if len(heard) == 0 {
			return
		}
		lines := strings.Split(strings.TrimSuffix(string(heard), "\r\n"), "\r\n")
		for _, line := range lines {
			var r struct {
				Return json.RawMessage
				Error  *refusal
				ID     json.RawMessage
			}
			if err := json.Unmarshal([]byte(line), &r); err != nil || (r.Return == nil) == (r.Error == nil) {
				t.Errorf("to %q: %q, %v", said, line, err)
			}
		}
		if quits > 0 && !bytes.Contains(bytes.ToLower(said), []byte("execute")) {
			t.Errorf("%q ends it", said)
		}
	})
}
