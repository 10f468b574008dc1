package firewall

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/xenchan/xenchan/internal/sys"
)

const policy = `[[agent]]
match = "*"
max_line = 4096
[[agent.allow]]
who = "4711"
commands = ["guest-ping", "guest-get-*", "guest-shutdown"]
`

// talk is a session, and what was said about it.
type talk struct {
	Session
	log []string
}

func newTalk(t testing.TB) *talk {
	t.Helper()
	policies, err := Parse("f", []byte(policy))
	if err != nil {
		t.Fatal(err)
	}
	rules := (&Set{Policies: policies}).For("web", "", DefaultChannel)
	k := &talk{}
	k.Session = Session{
		Who: sys.Cred{UID: 4711}, Rules: func() *Rules { return rules },
		Asked:    func(c Call) { k.log = append(k.log, fmt.Sprintf("%d %s %v %s", c.Number, c.Command, c.Allowed, c.By)) },
		Answered: func(o Outcome) { k.log = append(k.log, fmt.Sprintf("%d %s %s", o.Number, o.Command, o.Result)) },
	}
	k.Open(rules)
	return k
}

func (k *talk) client(p string) (guest, client string) {
	g, c, _ := k.FromClient([]byte(p))
	return ownSync.ReplaceAllString(string(g), "<sync>"), string(c)
}

var ownSync = regexp.MustCompile("\ufffd?" + `{"execute":"guest-sync-delimited","arguments":{"id":([0-9]{5,})}}` + "\n")

// TestSession is what goes to the guest (>) and to the client (<) for what the client
// (c) and the guest (g) say; "<sync>" is a sync of ours, $ its number.
func TestSession(t *testing.T) {
	denied := `{"error":{"class":"GenericError","desc":"xenchan: guest-exec is not allowed for user 4711 by f:1"}}` + "\n"
	sync := "\xff" + `{"execute":"guest-sync-delimited","arguments":{"id":7}}` + "\n"
	synced := "\xff" + `{"return": 7}` + "\n"
	ping, get, down := `{"execute":"guest-ping"}`+"\n", `{"execute":"guest-get-time","id":"x"}`+"\n", `{"execute":"guest-shutdown","arguments":{"mode":"halt"}}`+"\n"
	exec := `{"execute":"guest-exec","arguments":{"path":"id"}}` + "\n"
	done, refused := `{"return": {}}`+"\n", `{"error": {"class": "GenericError", "desc": "busy"}}`+"\n"
	tooLong := `{"return": "` + strings.Repeat("x", 5000) + "\"}\n"
	for _, c := range []struct {
		name  string
		steps []string
		log   string
	}{
		{"as it is", []string{"c" + sync, ">" + sync, "g" + synced, "<" + synced, "c" + ping, ">" + ping, "g" + done, "<" + done}, "1 guest-ping true f:4|1 guest-ping ok"},
		{"denied", []string{"c" + sync + exec, ">" + sync, "g" + synced, "<" + synced + denied}, "1 guest-exec false f:1"},
		{
			"denied behind one that waits",
			[]string{"c" + sync, ">" + sync, "g" + synced, "<" + synced, "c" + ping + exec + get, ">" + ping + get, "g" + done, "<" + done + denied, "g" + refused, "<" + refused},
			"1 guest-ping true f:4|2 guest-exec false f:1|3 guest-get-time true f:4|1 guest-ping ok|3 guest-get-time error",
		},
		{"client that does not sync", []string{"c" + ping, "><sync>" + ping, "g" + done, "c" + get, "><sync>" + get, "g\xff{\"return\": $}\n", "g" + done, "<" + done, "g" + done, "<" + done, "g" + done}, ""},
		{"nobody has asked", []string{"g" + done + synced + "login: \n", "c" + sync, ">" + sync, "g" + done + "\xff{\"return\": 8}\n" + refused, "g" + synced, "<" + synced, "g" + synced + done}, ""},
		{"gives up", []string{"c" + sync, ">" + sync, "g" + synced, "<" + synced, "c" + ping, ">" + ping, "c" + sync, ">" + sync, "g" + done, "g" + synced, "<" + synced}, "1 guest-ping true f:4|1 guest-ping unanswered"},
		{"plain sync", []string{"c" + sync, ">" + sync, "g" + synced, "<" + synced, `c{"execute":"guest-sync","arguments":{"id":3}}` + "\n", `>{"execute":"guest-sync","arguments":{"id":3}}` + "\n", "g" + done, "g{\"return\": 3}\n", "<{\"return\": 3}\n"}, ""},
		{"no reply", []string{"c" + sync, ">" + sync, "g" + synced, "<" + synced, "c" + down + ping, ">" + down + ping, "g" + done, "<" + done}, "1 guest-shutdown true f:4|2 guest-ping true f:4|1 guest-shutdown ok|2 guest-ping ok"},
		{"a refusal of what has no reply", []string{"c" + sync, ">" + sync, "g" + synced, "<" + synced, "c" + down, ">" + down, "g" + refused, "<" + refused}, "1 guest-shutdown true f:4|1 guest-shutdown error"},
		{"too long", []string{
			"c" + sync, ">" + sync, "g" + synced, "<" + synced, "c" + ping, ">" + ping, "g" + tooLong,
			`<{"error":{"class":"GenericError","desc":"xenchan: the guest's reply to guest-ping has more than 4096 bytes (max_line of f:1)"}}` + "\n", "c" + ping, ">" + ping, "g" + done, "<" + done,
		}, ""},
		{"garbage from the guest", []string{
			"c" + sync, ">" + sync, "g" + synced, "<" + synced, "c" + ping, ">" + ping,
			"g\n{\n{\"return\":1,\"error\":{}}\n{\"return\":1,\"return\":2}\n{\"Return\":1}\n[]\n{\"return\":\"\xc3\"}\n{\"return\":1}{}\n{\"error\":{\"class\":1,\"desc\":\"\"}}\n" + exec, "g" + done, "<" + done,
		}, ""},
		{"a complaint about a sentinel", []string{"c" + exec, "<" + denied, "c" + sync, ">" + sync, "g" + refused + synced, "<" + synced, "c" + ping, ">" + ping, "g" + done, "<" + done}, ""},
		{"cut anywhere", []string{"c" + sync[:9], "c" + sync[9:], ">" + sync, "g" + synced[:3], "g" + synced[3:], "<" + synced}, ""},
		{"rubbish before a sentinel", []string{"c{\"execute\":\"guest-exec\"\xff\xff" + sync, ">" + sync}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newTalk(t)
			var got []string
			for _, step := range c.steps {
				what := strings.ReplaceAll(step[1:], "$", fmt.Sprint(k.own))
				var guest, client string
				switch step[0] {
				case 'c':
					guest, client = k.client(what)
				case 'g':
					client = string(k.FromGuest([]byte(what)))
				default:
					continue
				}
				got = append(got, step)
				if guest != "" {
					got = append(got, ">"+guest)
				}
				if client != "" {
					got = append(got, "<"+client)
				}
			}
			if diff := cmp.Diff(c.steps, got); diff != "" {
				t.Error(diff)
			}
			if log := strings.Join(k.log, "|"); c.log != "" && log != c.log {
				t.Errorf("log: %s\nwant %s", log, c.log)
			}
		})
	}
}

// Nothing gets to the guest but one request on a line, in a form that all parsers
// take for the same.
func TestSession_malformed(t *testing.T) {
	for _, line := range []string{
		`{"execute":"guest-ping"}{"execute":"guest-exec"}`, `{"execute":"guest-exec","execute":"guest-ping"}`,
		`{"execute":"guest-ping","Execute":"guest-exec"}`, `{"execute":"guest-ping","exec-oob":"guest-exec"}`, `{'execute':'guest-ping'}`,
		`{"execute":"guest-ping"`, `["guest-ping"]`, `"guest-ping"`, `guest-ping`, `{"execute":["guest-ping"]}`, `{"execute":null}`, `{"execute":""}`,
		`{"execute":"guest-ping\u0000"}`, `{"execute":"guest-ping` + "\x00" + `"}`, "{\"execute\":\"guest-ping\",\"id\":\"\xfe\"}", `{"execute":"guest ping"}`,
		// QEMU's parser begins anew in the middle of these.
		`{"execute":"guest-ping","arguments":` + strings.Repeat("[", 1025) + `{"execute":"guest-exec"}` + strings.Repeat("]", 1025) + `}`,
		`{"execute":"guest-ping","arguments":{"a":` + strings.Repeat("[", 65) + strings.Repeat("]", 65) + `}}`,
		`{"execute":"guest-sync","arguments":{"id":null}}`, `{"execute":"guest-sync"}`, `{"execute":"guest-sync-delimited","arguments":{"id":1.5}}`,
		`{"execute":"` + strings.Repeat("x", 5000) + `"}`, `{"execute":"guest-ping","arguments":{"a":"` + strings.Repeat("x", 4096) + `"}}`,
	} {
		k := newTalk(t)
		guest, client := k.client(line + "\n")
		if guest != "" || !regexp.MustCompile(`^{"error":{"class":"GenericError","desc":"xenchan: .*"}}`+"\n$").MatchString(client) {
			t.Errorf("%.100q: %q to the guest, %q to the client", line, guest, client)
		}
		if len(k.log) != 1 || !strings.Contains(k.log[0], " false ") || len(k.log[0]) > 400 {
			t.Errorf("%.100q: logged %q", line, k.log)
		}
		if guest, _ := k.client(`{"execute":"guest-ping"}` + "\n"); guest != "<sync>"+`{"execute":"guest-ping"}`+"\n" {
			t.Errorf("%.100q: then %q", line, guest)
		}
	}
	if flat([]byte(strings.Repeat("[],", maxParts))) {
		t.Error("any number of parts")
	}
	if !flat([]byte(`"` + strings.Repeat(`{[,\"`, maxParts) + `"`)) {
		t.Error("what is in a string counts as parts")
	}
}

// A line may lack its end when it is the last.
func TestSession_finish(t *testing.T) {
	k := newTalk(t)
	k.client(`{"execute":"guest-ping"}`)
	guest, _, err := k.Finish()
	if got := ownSync.ReplaceAllString(string(guest), ""); got != `{"execute":"guest-ping"}` || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	k.Close()
	if want := []string{"1 guest-ping true f:4", "1 guest-ping unanswered"}; !slices.Equal(k.log, want) {
		t.Error(k.log)
	}
}

// A client that asks on and on is closed; one that syncs is not.
func TestSession_bounded(t *testing.T) {
	ping := []byte(`{"execute":"guest-ping"}` + "\n")
	k := newTalk(t)
	for i := range maxPending {
		if _, _, err := k.FromClient(ping); err != nil {
			t.Fatal(i, err)
		}
	}
	for range 1000 {
		if _, _, err := k.FromClient([]byte("\xff" + `{"execute":"guest-sync-delimited","arguments":{"id":1}}` + "\n")); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	for range maxPending {
		_, _, err = k.FromClient(ping)
	}
	if err != ErrTooMany {
		t.Error(err)
	}
	flood := bytes.Repeat([]byte("x"), 1<<20)
	k = newTalk(t)
	for range 100 {
		k.FromGuest(flood)
		k.FromClient(flood)
	}
	if up, down := cap(k.up.buf), cap(k.down.buf); up > 8192 || down > 8192 {
		t.Errorf("%d and %d bytes are kept of lines without an end", up, down)
	}
}

// What may pass gets there as it was sent, what may not does not, and the client has
// one reply for each, in order, from an agent that answers each.
func TestSession_property(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		k := newTalk(t)
		var sent, want, replies []string
		agent := func(guest []byte) (said []byte) {
			for _, line := range bytes.SplitAfter(guest, []byte("\n")) {
				var q struct {
					Execute   string
					ID        json.RawMessage
					Arguments struct{ ID json.Number }
				}
				text, marked := bytes.CutPrefix(line, []byte{sentinel})
				if marked { // qemu-ga answers that too
					said = append(said, `{"error": {"class": "GenericError", "desc": "JSON parse error, stray"}}`+"\n"...)
				}
				if json.Unmarshal(text, &q) != nil {
					continue
				}
				switch q.Execute {
				case "guest-sync-delimited":
					said = fmt.Appendf(said, "\xff{\"return\": %s}\n", q.Arguments.ID)
				case "guest-sync":
					said = fmt.Appendf(said, "{\"return\": %s}\n", q.Arguments.ID)
				default:
					said = fmt.Appendf(said, "{\"return\": %q}\n", "to "+string(q.ID))
				}
			}
			return said
		}
		var toGuest, toClient []byte
		for i := range rapid.IntRange(1, 40).Draw(r, "requests") {
			var line, reply string
			switch kind := rapid.IntRange(0, 4).Draw(r, "kind"); kind {
			case 0:
				line = fmt.Sprintf("%s{ \"id\":%d, \"execute\" : \"guest-get-%d\" }\r\n", rapid.SampledFrom([]string{"", " ", "\xff"}).Draw(r, "before"), i, i)
				reply = fmt.Sprintf(`{"return": "to %d"}`, i)
			case 1:
				line, reply = fmt.Sprintf("{\"execute\":\"guest-exec-%d\"}\n", i), "not allowed"
			case 2:
				line, reply = rapid.SampledFrom([]string{"{}\n", "nonsense\n", "{\"execute\":\n"}).Draw(r, "bad"), "must be one request"
			case 3:
				line, reply = fmt.Sprintf("{\"execute\":\"guest-sync\",\"arguments\":{\"id\":%d}}\n", i), fmt.Sprintf("{\"return\": %d}", i)
			case 4:
				line, reply = fmt.Sprintf("\xff{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":%d}}\n", i), fmt.Sprintf("\xff{\"return\": %d}", i)
			}
			sent, replies = append(sent, line), append(replies, reply)
			if !strings.Contains(reply, "not allowed") && !strings.Contains(reply, "must be") {
				pass := line
				if !strings.Contains(line, "delimited") {
					pass = strings.TrimPrefix(line, "\xff")
				}
				want = append(want, pass)
			}
			for len(line) > 0 {
				n := rapid.IntRange(1, len(line)).Draw(r, "piece")
				guest, client, err := k.FromClient([]byte(line[:n]))
				if err != nil {
					r.Fatal(err)
				}
				line = line[n:]
				toGuest, toClient = append(toGuest, guest...), append(toClient, client...)
				for said := agent(guest); len(said) > 0; {
					n := rapid.IntRange(1, len(said)).Draw(r, "said")
					toClient = append(toClient, k.FromGuest(said[:n])...)
					said = said[n:]
				}
			}
		}
		if got := ownSync.ReplaceAllString(string(toGuest), ""); got != strings.Join(want, "") {
			r.Fatalf("sent %q\nto the guest %q", sent, got)
		}
		got := strings.SplitAfter(string(toClient), "\n")
		if len(got) != len(replies)+1 {
			r.Fatalf("sent %q\n%d replies for %d requests: %q", sent, len(got)-1, len(replies), got)
		}
		for i, reply := range replies {
			if !strings.Contains(got[i], reply) {
				r.Fatalf("sent %q\nreply %d is %q, want %q", sent, i, got[i], reply)
			}
		}
		if len(k.queue) > 0 {
			r.Fatalf("%d requests wait", len(k.queue))
		}
	})
}
