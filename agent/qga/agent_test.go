package qga

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fakeAgent is the guest's end of a channel, where anything may happen.
type fakeAgent struct {
	net.Conn
	r *bufio.Reader
}

// serve starts an agent that does what f says, and returns its client.
func serve(t *testing.T, f func(*fakeAgent)) *Client {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "agent"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		f(&fakeAgent{conn, bufio.NewReader(conn)})
	}()
	conn, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := New(conn)
	t.Cleanup(func() { c.Close(); l.Close(); <-done })
	return c
}

// ask is what an agent was asked for.
type ask struct {
	Execute   string         `json:"execute"`
	Arguments map[string]any `json:"arguments"`
	id        json.Number
}

// next reads one request, past sentinels.
func (a *fakeAgent) next() (q ask, ok bool) {
	line, err := a.r.ReadString('\n')
	if err != nil {
		return ask{}, false
	}
	line = line[strings.LastIndexByte(line, sentinel)+1:]
	d := json.NewDecoder(strings.NewReader(line))
	d.UseNumber()
	if d.Decode(&q) != nil {
		return ask{}, false
	}
	q.id, _ = q.Arguments["id"].(json.Number)
	return q, true
}

func (a *fakeAgent) say(format string, args ...any) { fmt.Fprintf(a, format, args...) }

func (a *fakeAgent) sync(q ask) { a.say("\xff{\"return\": %s}\n", q.id) }

// answer is a good agent: it syncs, and answers each other command with reply.
func (a *fakeAgent) answer(reply func(ask) string) {
	for {
		q, ok := a.next()
		switch {
		case !ok:
			return
		case q.Execute == "guest-sync-delimited":
			a.sync(q)
		default:
			a.say("%s\n", reply(q))
		}
	}
}

// What a stream may hold before the answer to a sync.
func TestSync_skipsWhatIsThere(t *testing.T) {
	for name, garbage := range map[string]string{
		"an echo":              "\xff{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":1}}\r\n",
		"a complaint":          `{"error": {"class": "GenericError", "desc": "JSON parse error, stray '\\377'"}}` + "\n",
		"half an answer":       `{"return": {"a": "b`,
		"another's answer":     `{"return": 77}` + "\n",
		"another's sync":       "\xff{\"return\": 77}\n",
		"a sync without line":  "\xff\xff\xff",
		"a sync that is text":  "\xff{\"return\": \"77\"}\n",
		"nothing but a prompt": "debian login: ",
		"broken JSON":          "\xff{\"return\": \n\xff}{\n",
	} {
		t.Run(name, func(t *testing.T) {
			c := serve(t, func(a *fakeAgent) {
				a.say("%s", garbage)
				a.answer(func(ask) string { return `{"return": {"version": "mine"}}` })
			})
			info, err := c.Info(t.Context())
			if err != nil || info.Version != "mine" {
				t.Errorf("Info = %+v, %v", info, err)
			}
		})
	}
}

// An agent that starts late has lost what came before it.
func TestSync_asksAgain(t *testing.T) {
	c := serve(t, func(a *fakeAgent) {
		a.next()
		a.next()
		a.answer(func(ask) string { return `{"return": {}}` })
	})
	if err := c.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestCall_neverTakesALateAnswer(t *testing.T) {
	asked, late := make(chan struct{}), make(chan struct{})
	c := serve(t, func(a *fakeAgent) {
		for {
			q, ok := a.next()
			switch {
			case !ok:
				return
			case q.Execute == "guest-sync-delimited":
				a.sync(q)
			case q.Execute == "guest-get-time":
				close(asked)
				<-late
				a.say("{\"return\": 1}\n")
			default:
				a.say("{\"return\": {\"version\": \"right\"}}\n")
			}
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	if _, err := c.Time(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("an abandoned call: %v", err)
	}
	close(late)
	info, err := c.Info(t.Context())
	if err != nil || info.Version != "right" {
		t.Errorf("the call after it: %+v, %v", info, err)
	}
}

// An answer that nobody asked for is not taken for the next one's.
func TestCall_unasked(t *testing.T) {
	c := serve(t, func(a *fakeAgent) {
		n := 0
		a.answer(func(ask) string {
			n++
			return fmt.Sprintf("{\"return\": %d}\n{\"return\": 666}", n)
		})
	})
	for want := 1; want <= 3; want++ {
		var got int
		if err := c.Call(t.Context(), "count", nil, &got); err != nil || got != want {
			t.Fatalf("call %d: %d, %v", want, got, err)
		}
		for c.r.Buffered() == 0 { // what is not there yet can't be seen
			c.r.Peek(1)
		}
	}
}

func TestCall_noAnswer(t *testing.T) {
	for name, agent := range map[string]func(*fakeAgent){
		"silence": func(a *fakeAgent) { a.r.ReadString(0) },
		"a flood of nonsense": func(a *fakeAgent) {
			for {
				if _, err := a.Write([]byte("login incorrect\n\xff{}\n{\"return\"")); err != nil {
					return
				}
			}
		},
		"wrong ids": func(a *fakeAgent) {
			for {
				if _, ok := a.next(); !ok {
					return
				}
				a.say("\xff{\"return\": 1}\n")
			}
		},
		"another program": func(a *fakeAgent) { // a shell, on a terminal that echoes
			for {
				line, err := a.r.ReadString('\n')
				if err != nil {
					return
				}
				a.say("%ssh: 1: %q: not found\r\n# ", line, line)
			}
		},
		"broken JSON": func(a *fakeAgent) {
			a.answer(func(ask) string { return `{"return": {"broken": }}` })
		},
		"silence after the sync": func(a *fakeAgent) {
			for {
				q, ok := a.next()
				if !ok {
					return
				}
				if q.Execute == "guest-sync-delimited" {
					a.sync(q)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := serve(t, agent)
			c.Timeout = 600 * time.Millisecond
			if err := c.Ping(t.Context()); !errors.Is(err, ErrNoAnswer) {
				t.Errorf("got %v, want ErrNoAnswer", err)
			}
		})
	}
}

// A line without an end costs no more memory than the limit.
func TestCall_endlessLine(t *testing.T) {
	c := serve(t, func(a *fakeAgent) {
		q, _ := a.next()
		a.sync(q)
		a.next()
		a.say(`{"return": "`)
		chunk := make([]byte, 1<<20)
		for i := range chunk {
			chunk[i] = 'x'
		}
		for range 100 {
			if _, err := a.Write(chunk); err != nil {
				return
			}
		}
		a.say("\"}\n")
		a.answer(func(ask) string { return `{"return": {}}` })
	})
	c.Timeout = time.Minute
	if err := c.Ping(t.Context()); !errors.Is(err, ErrTooLong) {
		t.Fatalf("got %v, want ErrTooLong", err)
	}
	if err := c.Ping(t.Context()); err != nil {
		t.Errorf("the call after it: %v", err)
	}
}

func TestCall_refused(t *testing.T) {
	c := serve(t, func(a *fakeAgent) {
		a.answer(func(ask) string { return `{"error": {"class": "CommandNotFound", "desc": "no such thing"}}` })
	})
	err := c.Ping(t.Context())
	refused, ok := errors.AsType[*Error](err)
	if !ok || refused.Class != "CommandNotFound" || refused.Desc != "no such thing" {
		t.Errorf("got %v", err)
	}
}

func TestCall_hungUp(t *testing.T) {
	c := serve(t, func(a *fakeAgent) {
		q, _ := a.next()
		a.sync(q)
		a.next()
	})
	if err := c.Ping(t.Context()); !errors.Is(err, ErrGone) {
		t.Errorf("got %v", err)
	}
}

// A command that ends the guest has no answer, or is refused, or ends the stream.
func TestShutdown(t *testing.T) {
	for name, test := range map[string]struct {
		agent   func(*fakeAgent, ask)
		refused bool
	}{
		"silence": {func(a *fakeAgent, _ ask) { a.next() }, false},
		"refused": {func(a *fakeAgent, _ ask) {
			a.say("{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}\n")
		}, true},
		"the end": {func(*fakeAgent, ask) {}, false},
	} {
		t.Run(name, func(t *testing.T) {
			mode := make(chan any, 1)
			c := serve(t, func(a *fakeAgent) {
				q, _ := a.next()
				a.sync(q)
				q, _ = a.next()
				mode <- q.Arguments["mode"]
				test.agent(a, q)
			})
			err := c.Shutdown(t.Context(), Reboot)
			if refused, ok := errors.AsType[*Error](err); ok != test.refused || !ok && err != nil {
				t.Errorf("got %v %v", refused, err)
			}
			if m := <-mode; m != "reboot" {
				t.Errorf("mode %v", m)
			}
		})
	}
}

// A piece of a file whose answer is lost is done again at the same place.
func TestFile_lostAnswers(t *testing.T) {
	content := strings.Repeat("0123456789abcdef", 3*ChunkSize/16) + "end"
	reads := 0
	c := serve(t, func(a *fakeAgent) {
		pos := 0
		a.answer(func(q ask) string {
			switch q.Execute {
			case "guest-file-open":
				return `{"return": 7}`
			case "guest-file-seek":
				n, _ := q.Arguments["offset"].(json.Number).Int64()
				pos = int(n)
				return fmt.Sprintf(`{"return": {"position": %d, "eof": false}}`, pos)
			case "guest-file-read":
				n, _ := q.Arguments["count"].(json.Number).Int64()
				p := content[pos:min(len(content), pos+int(n))]
				pos += len(p)
				if reads++; reads%2 == 1 {
					return "" // done, and not said
				}
				j, _ := json.Marshal([]byte(p))
				return fmt.Sprintf(`{"return": {"count": %d, "buf-b64": %s, "eof": false}}`, len(p), j)
			}
			return `{"return": {}}`
		})
	})
	c.Timeout = 300 * time.Millisecond
	var got strings.Builder
	if err := c.Download(t.Context(), "/f", &got, 0, nil); err != nil || got.String() != content {
		t.Errorf("%d of %d bytes, %v", got.Len(), len(content), err)
	}
}

// A guest that lies about what it sends is not believed.
func TestFile_lies(t *testing.T) {
	for _, lie := range []string{
		`{"count": 70000, "buf-b64": "AA=="}`, `{"count": -1, "buf-b64": ""}`, `{"count": 1, "buf-b64": "%%"}`, `{"count": 2, "buf-b64": "AA=="}`, `[]`,
	} {
		liar := func(a *fakeAgent) {
			a.answer(func(q ask) string {
				if q.Execute == "guest-file-open" {
					return `{"return": 7}`
				}
				return `{"return": ` + lie + `}`
			})
		}
		// Who believes it goes on for ever: these files have no end.
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		var got strings.Builder
		if err := serve(t, liar).Download(ctx, "/f", &got, 0, nil); err == nil || ctx.Err() != nil || got.Len() > 0 {
			t.Errorf("%s: %d bytes, %v", lie, got.Len(), err)
		}
		if err := serve(t, liar).Upload(ctx, "/f", strings.NewReader("x"), 0, nil); lie != `{"count": 1, "buf-b64": "%%"}` && (err == nil || ctx.Err() != nil) {
			t.Errorf("%s: upload: %v", lie, err)
		}
	}
}

// Whatever a guest has said before, its next answer is the answer.
func FuzzSync(f *testing.F) {
	for _, s := range []string{`{"return": {}}`, `{"error": {}}`, "\xff\xff{\"return\": null}\n", "\xff", "{\"return\"\n", "\n\n[]", `{"error": {"class": 1}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, before []byte) {
		c := serve(t, func(a *fakeAgent) {
			a.Write(before)
			a.answer(func(ask) string { return `{"return": {"version": "mine"}}` })
		})
		if info, err := c.Info(t.Context()); err != nil || info.Version != "mine" {
			t.Fatalf("%q: %+v, %v", before, info, err)
		}
	})
}
