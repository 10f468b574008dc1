package standin

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// As libxl of 4.17 starts it for a PV domain with two channels, the first of which
// it has lost; recorded.
const recorded = `-xen-domid 1 -no-shutdown ` +
	`-chardev socket,id=libxl-cmd,path=/var/run/xen/qmp-libxl-1,server=on,wait=off -mon chardev=libxl-cmd,mode=control ` +
	`-chardev socket,id=libxenstat-cmd,path=/var/run/xen/qmp-libxenstat-1,server=on,wait=off -mon chardev=libxenstat-cmd,mode=control ` +
	`-chardev socket,id=libxl-channel0,path=/run/a.sock,server=on,wait=off -chardev pty,id=libxl-channel1 ` +
	`-nodefaults -no-user-config -xen-attach -name g -vnc none -display none -nographic -machine xenpv -m 128`

func TestParse(t *testing.T) {
	for _, test := range []struct {
		name, args string
		want       Request
	}{
		{"recorded", recorded, Request{
			DomID: 1, Name: "g", Machine: "xenpv",
			Monitors: []Monitor{{ID: "libxl-cmd", Path: "/var/run/xen/qmp-libxl-1"}, {ID: "libxenstat-cmd", Path: "/var/run/xen/qmp-libxenstat-1"}},
			Chardevs: []Chardev{{ID: "libxl-channel0", Path: "/run/a.sock"}, {ID: "libxl-channel1"}},
		}},
		{
			"the probe of 4.20", `-S -no-user-config -nodefaults -nographic -machine none,accel=xen -chardev socket,id=libxl-cmd,fd=17,server=on,wait=off -mon chardev=libxl-cmd,mode=control`,
			Request{Probe: true, Machine: "none", Monitors: []Monitor{{ID: "libxl-cmd", FD: 17}}},
		},
		{
			"a path that QEMU would not read", `-xen-domid 2 -machine xenpv -chardev socket,id=libxl-channel1,path=/run/a,b=c.sock,server=on,wait=off`,
			Request{DomID: 2, Machine: "xenpv", Chardevs: []Chardev{{ID: "libxl-channel1", Path: "/run/a,b=c.sock"}}},
		},
		{
			"old words", `-xen-domid 2 -machine xenpv,accel=xen -chardev socket,id=libxl-channel1,path=/run/a.sock,server,nowait`,
			Request{DomID: 2, Machine: "xenpv", Chardevs: []Chardev{{ID: "libxl-channel1", Path: "/run/a.sock"}}},
		},
		{
			"what a user adds", `-xen-domid 3 -foo bar -chardev file,id=x,path=/tmp/x -name n,process=qemu -machine pc,accel=xen`,
			Request{DomID: 3, Name: "n", Machine: "pc"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := Parse(strings.Fields(test.args))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestParse_refuses(t *testing.T) {
	for _, args := range []string{
		"-xen-domid", "-xen-domid x", "-xen-domid 0", "-xen-domid 70000", "-mon chardev=nowhere", "-chardev socket,path=/x",
		"-chardev socket,id=a", "-chardev socket,id=a,fd=-1", "-chardev socket,id=a,fd=b",
	} {
		if got, err := Parse(strings.Fields(args)); err == nil {
			t.Errorf("%q: %+v", args, got)
		}
	}
}

func TestLost(t *testing.T) {
	for args, want := range map[string]bool{
		recorded: true,
		strings.ReplaceAll(recorded, "libxl-channel0", "libxl-channel2"): false,
		"-xen-domid 1 -chardev pty,id=libxl-channelx":                    false,
	} {
		r, err := Parse(strings.Fields(args))
		if err != nil || r.Lost() != want {
			t.Errorf("%q: %v, %v", args, r.Lost(), err)
		}
	}
}

func TestWithoutChannels(t *testing.T) {
	args := strings.Fields(recorded)
	rest := WithoutChannels(args)
	r, err := Parse(rest)
	if err != nil || len(r.Chardevs) > 0 || len(r.Monitors) != 2 || len(rest) != len(args)-4 {
		t.Errorf("%q: %v", rest, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(recorded)
	f.Add("-xen-domid 1 -chardev socket,id=,path= -mon chardev=")
	f.Fuzz(func(t *testing.T, line string) {
		r, err := Parse(strings.Fields(line))
		if err == nil && r.Probe != (r.DomID == 0) {
			t.Fatalf("%q: %+v", line, r)
		}
		for _, m := range r.Monitors {
			if m.Path == "" && m.FD < 0 {
				t.Fatalf("%q: monitor %+v", line, m)
			}
		}
	})
}
