package mdata

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// shelf is a source like a map. The key "late" is only for clients that are live.
type shelf map[string]string

func (s shelf) Get(key string, live bool) ([]byte, bool, error) {
	switch {
	case key == "refused":
		return nil, false, errors.New("not for you")
	case key == "late" && !live:
		return nil, false, ErrIgnore
	}
	v, ok := s[key]
	return []byte(v), ok, nil
}

func (s shelf) Keys() []string { return slices.Collect(maps.Keys(s)) }

func (s shelf) Put(key string, value []byte) error {
	if strings.HasPrefix(key, "sdc:") {
		return errors.New("read only")
	}
	s[key] = string(value)
	return nil
}

func (s shelf) Delete(key string) error {
	delete(s, key)
	return nil
}

// serve is a client of a server, over a pipe.
func serve(t *testing.T, source Source) *Client {
	t.Helper()
	theirs, ours := net.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- (&Server{Source: source}).Serve(theirs) }()
	c := NewClient(ours)
	t.Cleanup(func() {
		c.Close()
		ours.Close()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return c
}

func TestExchange(t *testing.T) {
	big := strings.Repeat("\x00\xffbinary\n", MaxValue/9)
	source := shelf{"user-data": "#cloud-config\n", "empty": "", "big": big}
	c := serve(t, source)
	ctx := t.Context()
	for key, want := range source {
		got, found, err := c.Get(ctx, key)
		if err != nil || !found || string(got) != want {
			t.Errorf("Get(%q) = %d bytes, %v, %v, want %d bytes", key, len(got), found, err, len(want))
		}
	}
	if got, found, err := c.Get(ctx, "nothing"); found || err != nil || len(got) != 0 {
		t.Errorf("a key that is not there: %q, %v, %v", got, found, err)
	}
	if err := c.Put(ctx, "new", []byte("one two\n")); err != nil || source["new"] != "one two\n" {
		t.Errorf("Put: %v, %q", err, source["new"])
	}
	keys, err := c.Keys(ctx)
	if diff := cmp.Diff([]string{"big", "empty", "new", "user-data"}, keys); diff != "" || err != nil {
		t.Errorf("Keys: %v %s", err, diff)
	}
	if err := c.Delete(ctx, "new"); err != nil || len(source) != 3 {
		t.Errorf("Delete: %v, %v", err, source.Keys())
	}
	var failure *FailureError
	if err := c.Put(ctx, "sdc:uuid", nil); !errors.As(err, &failure) || failure.Reason != "read only" {
		t.Errorf("Put of what is read only: %v", err)
	}
	if _, _, err := c.Get(ctx, "refused"); !errors.As(err, &failure) || failure.Reason != "not for you" {
		t.Errorf("Get of what is refused: %v", err)
	}
	if err := c.Put(ctx, "long", make([]byte, MaxPut+1)); !errors.As(err, &failure) {
		t.Errorf("Put of %d bytes: %v", MaxPut+1, err)
	}
	if err := c.Put(ctx, "long", make([]byte, MaxPut)); err != nil || len(source["long"]) != MaxPut {
		t.Errorf("Put of %d bytes: %v", MaxPut, err)
	}
}

// tape is a connection with what a guest has sent, that takes down the answers.
type tape struct {
	io.Reader
	bytes.Buffer
}

func (t *tape) Read(p []byte) (int, error)  { return t.Reader.Read(p) }
func (t *tape) Write(p []byte) (int, error) { return t.Buffer.Write(p) }

// What cloud-init 22.4.2 sends, and the answers that it computes for itself.
const (
	cloudInitAsks   = "V2 25 2d1cdae0 1f0a6e22 GET c2RjOnV1aWQ=\n"
	cloudInitGets   = "V2 65 66a8b339 1f0a6e22 SUCCESS MmYxYTdhMzgtM2M1NC00YjVjLWE2ZDEtNmY0ZjlhMWYwYTZl\n"
	cloudInitPuts   = "V2 53 71f783df 1f0a6e22 PUT ZUdWdVkyaGhianBqYjI1bWFXZDFjbVZrIGIycz0=\n"
	cloudInitStored = "V2 21 00c8b3b0 1f0a6e22 SUCCESS T0s=\n"
)

func TestServer_lines(t *testing.T) {
	const uuid, q = "2f1a7a38-3c54-4b5c-a6d1-6f4f9a1f0a6e", cloudInitAsks
	for _, c := range []struct{ in, out, passed string }{
		{"\n", "invalid command\n", ""},
		{"\r\n", "invalid command\n", ""},
		{"NEGOTIATE V2\n", "V2_OK\n", ""},
		{"NEGOTIATE V3\n", "FAILURE\n", ""},
		{cloudInitAsks, cloudInitGets, ""},
		{cloudInitPuts, cloudInitStored, ""},
		{strings.TrimSuffix(q, "\n") + "\r\n", cloudInitGets, ""},
		{string(frame{"0", "HELLO", nil}.appendTo(nil)), string(frame{"0", wordFailure, []byte("unknown command")}.appendTo(nil)), ""},
		{string(frame{"0", wordPut, []byte("no base64")}.appendTo(nil)), string(frame{"0", wordFailure, []byte(errPayload.Error())}.appendTo(nil)), ""},
		{strings.Replace(q, "V2 25", "V2 24", 1), "", errLength.Error()},
		{strings.Replace(q, "GET", "PUT", 1), "", errChecksum.Error()},
		{q[1:], "", errNoFrame.Error()},
		{"V2 -1 0 \n", "", errLength.Error()},
		{"V2 0 0 \n", "", errNoFrame.Error()},
		{"GET sdc:uuid\n", "", errNoFrame.Error()},
		{string(frame{"XYZ", wordGet, nil}.appendTo(nil)), "", errNoFrame.Error()},
		{string(frame{strings.Repeat("0", maxID+1), wordGet, nil}.appendTo(nil)), "", errNoFrame.Error()},
		{string(frame{"0", wordGet + " ?", nil}.appendTo(nil)), "", errPayload.Error()},
		{strings.Repeat("x", maxRequest+3) + "\n", "", errTooLong.Error()},
		{"half a line at the end", "", ""},
		{"Debian GNU/Linux 12 guest hvc1\nguest login: ", "", errNoFrame.Error()},
	} {
		var passed string
		conn := &tape{Reader: strings.NewReader(c.in)}
		s := Server{Source: shelf{"sdc:uuid": uuid}, Passed: func(why error) { passed = why.Error() }}
		if err := s.Serve(conn); err != nil {
			t.Fatal(err)
		}
		if conn.String() != c.out || passed != c.passed {
			t.Errorf("%.60q: answer %q, passed over: %q; want %q, %q", c.in, conn.String(), passed, c.out, c.passed)
		}
	}
}

// A terminal that is not raw sends all back that it gets: no answer to that is
// answered in turn.
func TestServer_echo(t *testing.T) {
	said := "\nNEGOTIATE V2\nNEGOTIATE V9\n" + cloudInitAsks + strings.Replace(cloudInitAsks, "2d1cdae0", "00000000", 1) +
		string(frame{"0", wordGet, []byte("refused")}.appendTo(nil)) + string(frame{"0", "HELLO", nil}.appendTo(nil))
	for round, in := 0, said; in != ""; round++ {
		if round == 2 {
			t.Fatalf("the answers to answers are answered: %q", in)
		}
		conn := &tape{Reader: strings.NewReader(strings.ReplaceAll(in, "\n", "\r\n"))}
		if err := (&Server{Source: shelf{}}).Serve(conn); err != nil {
			t.Fatal(err)
		}
		in = conn.String()
	}
}

// A question that may have waited for this server is told from one that somebody
// waits for.
func TestServer_live(t *testing.T) {
	q := string(frame{"0", wordGet, []byte("late")}.appendTo(nil))
	for in, want := range map[string]string{
		q:                      "",
		"\n" + q:               "invalid command\n",
		"NEGOTIATE V2\n" + q:   "V2_OK\n" + string(frame{"0", wordSuccess, []byte("x")}.appendTo(nil)),
		q + "NEGOTIATE V2\n\n": "V2_OK\ninvalid command\n",
	} {
		conn := &tape{Reader: strings.NewReader(in)}
		if err := (&Server{Source: shelf{"late": "x"}}).Serve(conn); err != nil || conn.String() != want {
			t.Errorf("%q: %q, %v, want %q", in, conn.String(), err, want)
		}
	}
}

// endless is a guest that floods, without an end of line.
type endless struct{ left int }

func (e *endless) Read(p []byte) (int, error) {
	if e.left <= 0 {
		return 0, io.EOF
	}
	n := min(len(p), e.left)
	e.left -= n
	for i := range p[:n] {
		p[i] = 'x'
	}
	return n, nil
}

func TestServer_memoryIsBounded(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	conn := &tape{Reader: io.MultiReader(&endless{left: 100 << 20}, strings.NewReader("\n\n"))}
	if err := (&Server{Source: shelf{}}).Serve(conn); err != nil || conn.String() != "invalid command\n" {
		t.Errorf("%q, %v", conn.String(), err)
	}
	runtime.ReadMemStats(&after)
	if grew := after.TotalAlloc - before.TotalAlloc; grew > 1<<20 {
		t.Errorf("a line of 100 MiB took %d bytes of memory", grew)
	}
}

// host answers a client by hand.
type host struct {
	t *testing.T
	net.Conn
}

// negotiate answers a client that begins.
func (h host) negotiate() {
	h.expect("\n")
	h.say("invalid command\n")
	h.expect("NEGOTIATE V2\n")
	h.say("V2_OK\n")
}

func (h host) expect(want string) {
	h.t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(h, got); string(got) != want {
		h.t.Errorf("the client sends %q, %v, want %q", got, err, want)
	}
}

func (h host) line() frame {
	h.t.Helper()
	var line []byte
	for one := make([]byte, 1); ; {
		if _, err := h.Read(one); err != nil || one[0] == '\n' {
			break
		}
		line = append(line, one[0])
	}
	f, err := parse(line)
	if err != nil {
		h.t.Errorf("the client sends %q: %v", line, err)
	}
	return f
}

func (h host) say(format string, args ...any) { fmt.Fprintf(h, format, args...) }

// A client goes on asking until it is in step with its host, whatever comes first,
// and takes no answer but its own.
func TestClient_resyncs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		theirs, ours := net.Pipe()
		c := NewClient(ours)
		defer ours.Close()
		defer c.Close()
		h := host{t, theirs}
		done := make(chan struct{})
		go func() {
			defer close(done)
			h.expect("\n") // nobody is there
			h.expect("\n")
			h.say("%s", strings.Repeat("y", maxAnswer+10)+"\nrest of V2 something\nV2_OK\n")
			h.say("invalid command\n")
			h.expect("NEGOTIATE V2\n")
			h.say("invalid command\nV2_OK\n")
			q := h.line()
			h.say("%s", frame{"0badcafe", wordSuccess, []byte("another's")}.appendTo(nil))
			h.say("%s", bytes.Replace(frame{q.id, wordSuccess, []byte("broken")}.appendTo(nil), []byte("SUCCESS"), []byte("SUCCES5"), 1))
			h.expect("\n") // asked again
			h.say("invalid command\n")
			h.expect("NEGOTIATE V2\n")
			h.say("V2_OK\n")
			if again := h.line(); again.id != q.id {
				t.Error("the same question has another number")
			}
			h.say("%s", frame{q.id, wordSuccess, []byte("right")}.appendTo(nil))
		}()
		got, found, err := c.Get(t.Context(), "k")
		if err != nil || !found || string(got) != "right" {
			t.Errorf("Get = %q, %v, %v", got, found, err)
		}
		<-done
	})
}

// What is given once may be given late, when the client has begun to ask again: it is
// not lost for that.
func TestClient_lateAnswer(t *testing.T) {
	for _, before := range []string{"\n", "NEGOTIATE V2\n"} {
		synctest.Test(t, func(t *testing.T) {
			theirs, ours := net.Pipe()
			c := NewClient(ours)
			defer ours.Close()
			defer c.Close()
			h := host{t, theirs}
			go func() {
				h.negotiate()
				q := h.line()
				h.expect("\n") // asked again
				if before != "\n" {
					h.say("invalid command\n")
					h.expect(before)
				}
				h.say("%s", frame{q.id, wordSuccess, []byte("once")}.appendTo(nil))
				h.say("invalid command\nV2_OK\n")
				h.say("%s", frame{q.id, wordNotFound, nil}.appendTo(nil))
				h.expect("\n") // the next question
				h.say("invalid command\n")
				h.expect("NEGOTIATE V2\n")
				h.say("V2_OK\n")
				h.say("%s", frame{h.line().id, wordSuccess, []byte("next")}.appendTo(nil))
			}()
			for _, want := range []string{"once", "next"} {
				if got, found, err := c.Get(t.Context(), "k"); err != nil || !found || string(got) != want {
					t.Errorf("Get = %q, %v, %v, want %q", got, found, err, want)
				}
			}
		})
	}
}

// A slow answer is waited for, as long as some of it comes.
func TestClient_slowAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		theirs, ours := net.Pipe()
		c := NewClient(ours)
		defer ours.Close()
		defer c.Close()
		h := host{t, theirs}
		go func() {
			h.negotiate()
			q := h.line()
			for _, b := range (frame{q.id, wordSuccess, []byte("slow")}).appendTo(nil) {
				time.Sleep(firstSilence * 9 / 10)
				h.Write([]byte{b})
			}
		}()
		if got, _, err := c.Get(t.Context(), "k"); err != nil || string(got) != "slow" {
			t.Errorf("Get = %q, %v", got, err)
		}
	})
}

func TestClient_ends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		theirs, ours := net.Pipe()
		go io.Copy(io.Discard, theirs)
		c := NewClient(ours)
		defer c.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, _, err := c.Get(ctx, "k"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a host that is silent: %v", err)
		}
		theirs.Close()
		if _, _, err := c.Get(t.Context(), "k"); err == nil || errors.Is(err, errSilent) {
			t.Errorf("a connection that is gone: %v", err)
		}
	})
}

func TestCheckKey(t *testing.T) {
	for key, ok := range map[string]bool{
		"user-data": true, "sdc:uuid": true, strings.Repeat("k", MaxKey): true,
		"": false, "a b": false, "a\nb": false, "é": false, strings.Repeat("k", MaxKey+1): false,
	} {
		if err := CheckKey(key); (err == nil) != ok {
			t.Errorf("CheckKey(%.20q) = %v", key, err)
		}
	}
}
