package channel

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestParseSpec(t *testing.T) {
	tests := []struct {
		in   string
		want Spec
	}{
		{
			"connection=socket,path=/run/a.sock,name=org.example.agent.0",
			Spec{Name: "org.example.agent.0", Connection: Socket, Path: "/run/a.sock"},
		},
		{",,name=a,,connection=pty,", Spec{Name: "a", Connection: PTY}},
		{" name =\ta\v, connection\n= pty\r\n", Spec{Name: "a", Connection: PTY}},
		{"name==b=c,connection=pty", Spec{Name: "=b=c", Connection: PTY}},
		{"path=/run/a=b,name=a,connection=socket", Spec{Name: "a", Connection: Socket, Path: "/run/a=b"}},
		{"name=a b,connection=pty,backend=driver dom", Spec{Name: "a b", Connection: PTY, Backend: "driver dom"}},
		{
			"name=a,connection=socket,mode=0660,owner=root,group=42,allow=alice:1000:@adm:@4,spool=4MiB,overflow=block,backend=3",
			Spec{Name: "a", Connection: Socket, Backend: "3", Mode: 0o660, Owner: "root", Group: "42", Allow: "alice:1000:@adm:@4", Spool: 4 << 20, Overflow: Block},
		},
		{"name=a,connection=pty,mode=7", Spec{Name: "a", Connection: PTY, Mode: 7}},
		{"name=a,connection=pty,spool=4096", Spec{Name: "a", Connection: PTY, Spool: MinSpool}},
		{"name=a,connection=pty,spool=64k", Spec{Name: "a", Connection: PTY, Spool: 64 << 10}},
		{"name=a,connection=pty,spool=64KiB", Spec{Name: "a", Connection: PTY, Spool: 64 << 10}},
		{"name=a,connection=pty,spool=1024M", Spec{Name: "a", Connection: PTY, Spool: MaxSpool}},
	}
	for _, tt := range tests {
		got, err := ParseSpec(tt.in)
		if err != nil || got != tt.want {
			t.Errorf("ParseSpec(%q) = %+v, %v; want %+v", tt.in, got, err, tt.want)
		}
	}
}

// problems lists the SpecErrors in a joined error.
func problems(t *testing.T, err error) []*SpecError {
	t.Helper()
	if err == nil {
		return nil
	}
	list := []error{err}
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		list = j.Unwrap()
	}
	var out []*SpecError
	for _, e := range list {
		se, ok := errors.AsType[*SpecError](e)
		if !ok {
			t.Fatalf("%T is not a *SpecError: %v", e, e)
		}
		out = append(out, se)
	}
	return out
}

func TestParseSpec_errors(t *testing.T) {
	long := strings.Repeat("x", MaxNameLen+1)
	tests := []struct {
		in     string
		offset int
		key    string
		text   string // part of the message or the hint
	}{
		{"name=a", -1, "connection", "connection=socket"},
		{"connection=pty", -1, "name", "no name"},
		{"name=a,conection=pty,connection=pty", 7, "conection", `did you mean "connection"?`},
		{"name=a,Path=/x,connection=pty", 7, "Path", `did you mean "path"?`},
		{"name=a,colour=red,connection=pty", 7, "colour", "valid keys are name, connection, path, backend, mode"},
		{"name=a, name=b,connection=pty", 8, "name", "given twice"},
		{"name=a,connection=pty,path", 22, "path", `"path" has no '='`},
		{"name=a,connection=pty,  ", 22, "", "has no '='"},
		{"name=a,connection=pty,backend= ", 22, "backend", `"backend= " has no value`},
		{"name=a,connection=pty,=x", 22, "", "no key"},
		{"name=,connection=pty", 0, "name", "no value"},
		{"name=a/b,connection=pty", 0, "name", "'/'"},
		{"name=..,connection=pty", 0, "name", "directory"},
		{"name=-a,connection=pty", 0, "name", "option"},
		{"name=a\x00b,connection=pty", 0, "name", "control"},
		{"name=a\xffb,connection=pty", 0, "name", "UTF-8"},
		{"name=a\u202eb,connection=pty", 0, "name", "cannot be printed"},
		{"name=\u00a0a,connection=pty", 0, "name", "white space"},
		{"name=" + long + ",connection=pty", 0, "name", "129 bytes"},
		{"name=a,connection=SOCKET", 7, "connection", "lower case: connection=socket"},
		{"name=a,connection=sokcet", 7, "connection", "did you mean connection=socket?"},
		{"name=a,connection=tcp", 7, "connection", "connection=socket or connection=pty"},
		{"name=a,connection=socket,path=run/a", 25, "path", "not absolute"},
		{"name=a,connection=socket,path=/run/../a", 25, "path", "write /a"},
		{"name=a,connection=socket,path=/run/", 25, "path", "write /run"},
		{"name=a,connection=socket,path=/", 25, "path", "directory"},
		{"name=a,connection=socket,path=/" + strings.Repeat("x", MaxPathLen), 25, "path", "108 bytes"},
		{"name=a,connection=socket,path=/r\x1b[2J", 25, "path", "control"},
		{"name=a,connection=pty,mode=0888", 22, "mode", "octal"},
		{"name=a,connection=pty,mode=-1", 22, "mode", "octal"},
		{"name=a,connection=pty,mode=01777", 22, "mode", "0777"},
		{"name=a,connection=pty,mode=000", 22, "mode", "every client"},
		{"name=a,connection=pty,owner=a:b", 22, "owner", "account"},
		{"name=a,connection=pty,group=-x", 22, "group", "account"},
		{"name=a,connection=socket,allow=alice::bob", 25, "allow", "nobody in one place"},
		{"name=a,connection=socket,allow=@", 25, "allow", "allow=alice:@adm"},
		{"name=a,connection=socket,allow=a b", 25, "allow", "account"},
		{"name=a,connection=socket,allow=@@a/", 25, "allow", "account"},
		{"name=a,connection=socket,allow=" + strings.Repeat("a:", 513) + "a", 25, "allow", "allow a group"},
		{"name=a,connection=pty,allow=alice", -1, "allow", "who opens a terminal"},
		{"name=a,connection=pty,spool=0", 22, "spool", "leave spool away"},
		{"name=a,connection=pty,spool=4095", 22, "spool", "4KiB to"},
		{"name=a,connection=pty,spool=1025M", 22, "spool", "4KiB to"},
		{"name=a,connection=pty,spool=9999999999999999999M", 22, "spool", "4KiB to"},
		{"name=a,connection=pty,spool=1G", 22, "spool", "not a size"},
		{"name=a,connection=pty,spool=+9999", 22, "spool", "not a size"},
		{"name=a,connection=pty,spool=MiB", 22, "spool", "not a size"},
		{"name=a,connection=pty,overflow=drop", 22, "overflow", "drop-oldest"},
		{"name=a,connection=pty,overflow=Block", 22, "overflow", "overflow=block"},
		{strings.Repeat(",", MaxSpecLen+1), -1, "", "at most 4096"},
	}
	for _, tt := range tests {
		spec, err := ParseSpec(tt.in)
		got := problems(t, err)
		if len(got) != 1 || got[0].Offset != tt.offset || got[0].Key != tt.key || !strings.Contains(got[0].Error(), tt.text) {
			t.Errorf("ParseSpec(%q) = %v, want one error at %d about %q with %q", tt.in, err, tt.offset, tt.key, tt.text)
		}
		if spec != (Spec{}) {
			t.Errorf("ParseSpec(%q) gave an error and %+v", tt.in, spec)
		}
	}
}

func TestParseSpec_reportsAllErrors(t *testing.T) {
	_, err := ParseSpec("nme=a,connection=tcp,path=x,spool=1")
	var keys []string
	for _, p := range problems(t, err) {
		keys = append(keys, p.Key)
	}
	if want := []string{"nme", "connection", "path", "spool", "name"}; !cmp.Equal(keys, want) {
		t.Errorf("problems with %v, want %v", keys, want)
	}
}

// text draws what may stand in a value: an edge that is not space, no comma.
func text(label string, limit int) *rapid.Generator[string] {
	return rapid.StringOfN(rapid.RuneFrom([]rune("az09.=-_ é字'\"\\;#[]+")), 1, -1, limit).
		Filter(func(s string) bool { return strings.TrimSpace(s) == s && s[0] != '-' && s != "." && s != ".." })
}

func specs() *rapid.Generator[Spec] {
	return rapid.Custom(func(t *rapid.T) Spec {
		account := rapid.OneOf(rapid.Just(""), rapid.StringMatching(`[a-z0-9_][a-z0-9_=.-]{0,20}`))
		connection := rapid.SampledFrom([]Connection{PTY, Socket}).Draw(t, "connection")
		allow := ""
		if connection == Socket {
			allow = rapid.OneOf(rapid.Just(""), rapid.StringMatching(`@?[a-z0-9_]{1,9}(:@?[a-z0-9_][a-z0-9@_.-]{0,9}){0,5}`)).Draw(t, "allow")
		}
		return Spec{
			Name:       text("name", MaxNameLen).Draw(t, "name"),
			Connection: connection,
			Path:       rapid.OneOf(rapid.Just(""), rapid.StringMatching(`(/[a-z=][a-z .=]{0,8}[a-z=]){1,9}`)).Draw(t, "path"),
			Backend:    rapid.OneOf(rapid.Just(""), text("backend", 200)).Draw(t, "backend"),
			Mode:       fs.FileMode(rapid.Uint32Range(0, 0o777).Draw(t, "mode")),
			Owner:      account.Draw(t, "owner"),
			Group:      account.Draw(t, "group"),
			Allow:      allow,
			Spool:      rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(MinSpool, MaxSpool), rapid.Map(rapid.Int64Range(1, 1024), func(m int64) int64 { return m << 20 })).Draw(t, "spool"),
			Overflow:   rapid.SampledFrom([]Overflow{"", DropOldest, Block}).Draw(t, "overflow"),
		}
	})
}

func TestSpec_roundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := specs().Draw(t, "spec")
		if err := want.Validate(); err != nil {
			t.Fatalf("Validate: %v", err)
		}
		got, err := ParseSpec(want.String())
		if err != nil || got != want {
			t.Fatalf("ParseSpec(%q) = %+v, %v; want %+v", want.String(), got, err, want)
		}
		b, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var back Spec
		if err := json.Unmarshal(b, &back); err != nil || back != want {
			t.Fatalf("%s = %+v, %v; want %+v", b, back, err, want)
		}
	})
}

// What Validate accepts, String must carry: also for values that no parser made.
func TestValidate_acceptsOnlyWhatStringCarries(t *testing.T) {
	wild := rapid.StringOfN(rapid.RuneFrom([]rune("a/.,=- \t\n\x00\x7f\u0085\u00a0\u2003")), 0, 12, -1)
	rapid.Check(t, func(t *rapid.T) {
		want := Spec{
			Name: wild.Draw(t, "name"), Connection: PTY, Path: "/" + wild.Draw(t, "path"),
			Backend: wild.Draw(t, "backend"), Owner: wild.Draw(t, "owner"),
			Mode: fs.FileMode(rapid.Uint32().Draw(t, "mode")), Spool: rapid.Int64().Draw(t, "spool"),
		}
		if want.Validate() != nil {
			want.Mode, want.Spool = 0, 0
		}
		if want.Validate() != nil {
			want.Path, want.Backend = "", ""
		}
		if want.Validate() != nil {
			return
		}
		if got, err := ParseSpec(want.String()); err != nil || got != want {
			t.Fatalf("ParseSpec(%q) = %+v, %v; want %+v", want.String(), got, err, want)
		}
	})
}

func TestValidate_joinsAll(t *testing.T) {
	s := Spec{Path: "a,b", Backend: " x", Mode: fs.ModeSocket | 0o600, Owner: "a b", Group: ",", Allow: ":", Spool: 1, Overflow: "never"}
	var keys []string
	for _, p := range problems(t, s.Validate()) {
		keys = append(keys, p.Key)
	}
	want := []string{"name", "connection", "path", "backend", "mode", "owner", "group", "allow", "spool", "overflow"}
	if !cmp.Equal(keys, want) {
		t.Errorf("problems with %v, want %v", keys, want)
	}
	if err := (Spec{Name: "a", Connection: PTY}).Validate(); err != nil {
		t.Errorf("the smallest Spec: %v", err)
	}
}

func TestWarnings(t *testing.T) {
	for in, want := range map[string][]string{
		"name=a,connection=pty":                                       nil,
		"name=a,connection=socket,path=/a":                            nil,
		"name=a,connection=socket":                                    {"path"},
		"name=a,connection=pty,path=/a,mode=600,owner=r,group=r":      {"path", "mode", "owner", "group"},
		"name=a,connection=socket,path=/a,overflow=block":             {"overflow"},
		"name=a,connection=socket,path=/a,overflow=drop-oldest":       nil,
		"name=a,connection=socket,path=/a,mode=600,owner=r,group=r":   nil,
		"name=a,connection=pty,spool=1M,overflow=drop-oldest,group=1": {"group"},
	} {
		s, err := ParseSpec(in)
		if err != nil {
			t.Fatal(err)
		}
		var keys []string
		for _, w := range s.Warnings() {
			keys = append(keys, w.Key)
		}
		if !cmp.Equal(keys, want) {
			t.Errorf("%s: warnings about %v, want %v", in, keys, want)
		}
	}
}

func TestWithDefaults(t *testing.T) {
	if got := (Spec{}).WithDefaults(); got.Spool != DefaultSpool || got.Overflow != DropOldest {
		t.Errorf("defaults are %+v", got)
	}
	if s := (Spec{Spool: 5000, Overflow: Block}); s.WithDefaults() != s {
		t.Errorf("defaults replaced what was set: %+v", s.WithDefaults())
	}
}

func TestDefaultPath(t *testing.T) {
	got, err := DefaultPath("/run/xenchan", "web", "org.example.0")
	if err != nil || got != "/run/xenchan/web/org.example.0.sock" {
		t.Errorf("DefaultPath = %q, %v", got, err)
	}
	fit := strings.Repeat("n", MaxPathLen-len("/r/d/.sock"))
	if got, err := DefaultPath("/r", "d", fit); err != nil || len(got) != MaxPathLen {
		t.Errorf("a path of just %d bytes: %q, %v", MaxPathLen, got, err)
	}
	for _, tt := range [][3]string{
		{"/r", "d", fit + "n"}, {"/r", "..", "n"}, {"/r", "", "n"}, {"/r", "a/b", "n"}, {"/r", "a\n", "n"}, {"/r", "d", "../n"}, {"/r", "d", ""},
	} {
		got, err := DefaultPath(tt[0], tt[1], tt[2])
		if err == nil || got != "" || len(problems(t, err)) != 1 {
			t.Errorf("DefaultPath(%q) = %q, %v", tt, got, err)
		}
	}
	if _, err := DefaultPath("/r", "d", fit+"n"); !strings.Contains(err.Error(), "path=PATH") {
		t.Errorf("a long path names no fix: %v", err)
	}
}

func TestNearest(t *testing.T) {
	for in, want := range map[string]string{
		"nmae": "name", "Name": "name", "naem": "name", "pat": "path", "ptah": "path", "conection": "connection", "connections": "connection",
		"bakend": "backend", "size": "", "x": "", "": "", strings.Repeat("name", 50): "", "ovreflow": "overflow",
	} {
		if got := Nearest(in, Keys()); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestInfo_jsonKeysInOrder(t *testing.T) {
	const want = "domid domain uuid devid name connection path tty state frontend_state backend_domid port ring_ref guest clients guest_to_host_bytes host_to_guest_bytes spooled_bytes dropped_bytes origin declared_in waiting_clients losses refused_clients served_by qemu_pid observers skipped_bytes"
	b, err := json.Marshal(Info{})
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	d := json.NewDecoder(bytes.NewReader(b))
	for tok, err := d.Token(); err == nil; tok, err = d.Token() {
		if key, ok := tok.(string); ok {
			keys = append(keys, key)
			var value any
			if err := d.Decode(&value); err != nil {
				t.Fatal(err)
			}
			null := strings.HasSuffix(key, "_bytes") || strings.HasSuffix(key, "state") || key == "clients" || strings.HasSuffix(key, "_clients") || key == "losses" || key == "observers" || key == "qemu_pid" || key == "port" || key == "ring_ref"
			if null != (value == nil) {
				t.Errorf("%s of an empty Info is %v", key, value)
			}
			if key == "guest" && value != "unknown" {
				t.Errorf("guest of an empty Info is %v", value)
			}
		}
	}
	if got := strings.Join(keys, " "); got != want {
		t.Errorf("keys\n%s\nwant\n%s", got, want)
	}
}

func TestSpec_json(t *testing.T) {
	b, err := json.Marshal(Spec{Name: "a", Connection: Socket, Mode: 0o660})
	const want = `{"name":"a","connection":"socket","path":"","backend":"","mode":"0660","owner":"","group":"","allow":"","spool":0,"overflow":""}`
	if err != nil || string(b) != want {
		t.Errorf("%s, %v; want %s", b, err, want)
	}
	var s Spec
	for _, in := range []string{`{"mode":"9"}`, `{"spool":"x"}`, `[]`} {
		if err := json.Unmarshal([]byte(in), &s); err == nil {
			t.Errorf("%s was read as %+v", in, s)
		}
	}
}

func FuzzParseSpec(f *testing.F) {
	for _, s := range []string{
		"", ",", "=", "name=a,connection=pty", " name = a , connection = socket , path = /run/a=b ", "connection=socket,path=/run/a.sock,name=org.example.agent.0",
		"name=a,connection=pty,mode=0660,owner=0,group=x,spool=4MiB,overflow=block,backend=d", "nmae=a,connection=Pty,name,name=", "name=\x00,path=//",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		spec, err := ParseSpec(in)
		if err != nil {
			if spec != (Spec{}) {
				t.Fatalf("error and %+v", spec)
			}
			for _, p := range problems(t, err) {
				if p.Offset < -1 || p.Offset > len(in) || p.Offset >= 0 && !strings.HasPrefix(in[p.Offset:], p.Key) {
					t.Fatalf("offset %d of key %q is not in %q", p.Offset, p.Key, in)
				}
			}
			return
		}
		if err := spec.Validate(); err != nil {
			t.Fatalf("ParseSpec(%q) = %+v, which is not valid: %v", in, spec, err)
		}
		if back, err := ParseSpec(spec.String()); err != nil || back != spec {
			t.Fatalf("%q is %+v, its String %q is %+v, %v", in, spec, spec.String(), back, err)
		}
	})
}
