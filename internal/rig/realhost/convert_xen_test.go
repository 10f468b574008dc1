//go:build xen

package realhost

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/channel/convert"
)

// xl makes of what we write the channels that we meant, and we read what it makes of it.
func TestConvert_xlAgrees(t *testing.T) {
	want := []channel.Spec{
		{Name: "org.example.a.0", Connection: channel.Socket, Path: `/run/a "b" 'c'\d#.sock`},
		{Name: `<&>[];é字\n`, Connection: channel.PTY, Backend: "driver domain"},
		{Name: "org.example.c.0", Connection: channel.Socket, Path: "/c"},
	}
	before := filepath.Join(t.TempDir(), "before.cfg")
	const text = "name = 'web' # channel = [\nkernel = '/boot/vmlinux'; channel = [ \"connection=pty,name=old\" ] ; memory = 128\n"
	f, err := convert.Parse(before, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := f.Replace(want)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(before, []byte(cfg), 0o666); err != nil {
		t.Fatal(err)
	}
	out := xl(t, "create", "-q", "-n", before)
	f, err = convert.Parse("xl", []byte(out))
	if err != nil {
		t.Fatalf("%v in\n%s", err, out)
	}
	located, _, err := f.Channels()
	if err != nil {
		t.Fatalf("%v in\n%s", err, out)
	}
	var got []channel.Spec
	for _, l := range located {
		got = append(got, l.Spec)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s\n%s", diff, out)
	}
	if name, err := f.DomainName(); name != "web" || err != nil {
		t.Errorf("name %q, %v", name, err)
	}
}
