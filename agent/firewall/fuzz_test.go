package firewall

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// qemuObjects is what QEMU's parser takes for messages in a stream: it counts braces
// outside of strings, begins anew at a byte that can be in no message, and in one that
// is too deep where that shows (qobject/json-streamer.c), and does not care for lines.
func qemuObjects(stream []byte) (all []string) {
	depth, start, quoted := 0, 0, false
	for i := 0; i < len(stream); i++ {
		switch c := stream[i]; {
		case c == sentinel || c < ' ' && c != '\n' && c != '\r' && c != '\t' || quoted && c < ' ':
			depth, quoted = 0, false
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			if depth == 0 {
				start = i
			}
			if depth++; depth > 1024 {
				depth = 0
			}
		case c == '}' || c == ']':
			if depth--; depth == 0 {
				all = append(all, string(stream[start:i+1]))
			}
			depth = max(depth, 0)
		}
	}
	return all
}

// Whatever a client sends, in whatever pieces: what gets to the guest is what it sent,
// and to the agent's parser each message in it is one that it may send.
func FuzzSession_client(f *testing.F) {
	for _, seed := range []string{
		"{\"execute\":\"guest-ping\"}\n", "\xff{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":1}}\n{\"execute\":\"guest-exec\"}\n",
		"{\"execute\":\"guest-ping\"}{\"execute\":\"guest-exec\"}\n", "{\"execute\":\"guest-ping\",\"id\":\"\\\"}\\u007b\"}\n", "{\"execute\":\"guest-\xff{\"execute\":\"guest-exec\"}\n",
		"{\"execute\":\"guest-ping\",\"arguments\":{\"a\":" + strings.Repeat("[", 1030) + "{\"execute\":\"guest-exec\"}" + strings.Repeat("]", 1030) + "}}\n",
	} {
		f.Add([]byte(seed), uint16(7))
	}
	f.Fuzz(func(t *testing.T, sent []byte, piece uint16) {
		k := newTalk(t)
		var guest []byte
		take := func(g, client []byte, err error) {
			guest = append(guest, g...)
			for line := range bytes.Lines(client) {
				if !json.Valid(line) || !utf8.Valid(line) {
					t.Fatalf("to the client: %q", line)
				}
			}
		}
		for part := range slices.Chunk(sent, int(piece)%4096+1) {
			take(k.FromClient(part))
		}
		take(k.Finish())
		guest = []byte(ownSync.ReplaceAllString(string(guest), ""))
		rest := sent
		for line := range bytes.Lines(guest) {
			at := bytes.Index(rest, line)
			if at < 0 {
				t.Fatalf("nobody has sent %q, behind what passed before", line)
			}
			rest = rest[at+len(line):]
		}
		for _, message := range qemuObjects(guest) {
			var q map[string]json.RawMessage
			var command string
			if json.Unmarshal([]byte(message), &q) != nil || json.Unmarshal(q["execute"], &command) != nil {
				t.Fatalf("no request, in %q: %q", guest, message)
			}
			may, _ := k.rules.Decide(k.Who, command)
			if !may && !strings.HasPrefix(command, "guest-sync") {
				t.Fatalf("%s gets through, in %q", command, guest)
			}
		}
	})
}

// Whatever a guest sends, the client gets whole replies, no more than it has asked
// for, and each as it was sent.
func FuzzSession_guest(f *testing.F) {
	for _, seed := range []string{
		"{\"return\": {}}\n{\"return\": {}}\n", "\xff{\"return\": 1}\n{\"return\": {}}\n", "{\"error\": {\"class\": \"a\", \"desc\": \"b\"}}\n",
		"{\"return\": {}}{\"return\": {}}\n", "\xff\xff{\"return\": 7}\n", "login: ", "{\"return\": \"" + strings.Repeat("x", 5000) + "\"}\n",
	} {
		f.Add([]byte(seed), uint16(7), uint8(1))
	}
	f.Fuzz(func(t *testing.T, said []byte, piece uint16, requests uint8) {
		k := newTalk(t)
		n := int(requests) % maxPending
		k.client("\xff{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":1}}\n")
		for range n {
			k.client("{\"execute\":\"guest-ping\"}\n")
		}
		lines := 0
		for part := range slices.Chunk(said, int(piece)%4096+1) {
			for line := range bytes.Lines(k.FromGuest(part)) {
				lines++
				text := bytes.TrimPrefix(line, []byte{sentinel})
				var reply map[string]json.RawMessage
				if !utf8.Valid(text) || json.Unmarshal(text, &reply) != nil || len(line) > k.rules.MaxLine || line[len(line)-1] != '\n' {
					t.Fatalf("to the client: %q", line)
				}
				if !bytes.Contains(said, line) && !bytes.Contains(line, []byte("xenchan: ")) {
					t.Fatalf("the guest has not said %q", line)
				}
			}
		}
		if lines > n+1 {
			t.Fatalf("%d replies to %d requests", lines, n+1)
		}
	})
}

// A file is read or refused, with the places of all that is wrong within it.
func FuzzParse(f *testing.F) {
	f.Add([]byte(policy))
	f.Add([]byte("[[agent]]\nmatch=[]\nallow=[{who=1,commands='ping'}]\n[agent.x]\n"))
	f.Add([]byte("agent=1\n'a.b'.c=2\n[[a.'b']]\n"))
	f.Fuzz(func(t *testing.T, src []byte) {
		policies, err := Parse("f", src)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "f:") {
				t.Fatalf("no place: %v", err)
			}
			return
		}
		for _, p := range policies {
			if len(p.Match) == 0 || len(p.Channels) == 0 || p.Line < 1 {
				t.Fatalf("%+v", p)
			}
			for _, a := range p.Allow {
				if len(a.Who) == 0 || len(a.Commands) == 0 || a.Line < 1 {
					t.Fatalf("%+v", a)
				}
			}
		}
	})
}
