package convert

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/channel/domcfg"
	"github.com/xenchan/xenchan/channel/xlcfg"
)

// libvirt is asked through its test driver, which needs no daemon and no
// hypervisor, and has the parser that all of libvirt's drivers have.
const skeleton = `<domain type='test'>
  <name>web</name>
  <memory>131072</memory>
  <os>
    <type arch='i686'>hvm</type>
  </os>
  <devices>
    <memballoon model='xen'/>
  </devices>
</domain>
`

func requireLibvirt(t *testing.T) {
	t.Helper()
	for _, program := range []string{"virsh", "virt-xml-validate", "xmllint"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%v: apt-get install libvirt-clients libxml2-utils", err)
		}
	}
}

func writeFile(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "web.xml")
	if err := os.WriteFile(name, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	return name
}

// virsh defines a domain and gives libvirt's own form of it.
func virsh(t *testing.T, text string) (string, error) {
	t.Helper()
	cmd := exec.Command("virsh", "--quiet", "--connect", "test:///default", fmt.Sprintf("define %s; dumpxml web", writeFile(t, text)))
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Contains(string(out), "error:") {
		return "", fmt.Errorf("%v: %s", err, out)
	}
	return string(out), nil
}

// What we write, libvirt's schema allows, and libvirt keeps.
func TestLibvirt_keepsWhatWeWrite(t *testing.T) {
	requireLibvirt(t)
	for name, specs := range map[string][]string{
		"one socket":   {"connection=socket,path=/run/a.sock,name=org.example.a.0"},
		"one terminal": {"connection=pty,name=org.example.a.0"},
		"characters":   {`connection=socket,path=/run/a b/<&>'"é字.sock,name=<&>'"é字 ]]>`},
		"all of ours": {
			"connection=socket,path=/run/a.sock,name=a,backend=driver <&>,mode=0660,owner=root,group=42,allow=alice:@adm,spool=4MiB,overflow=block",
			"connection=pty,name=b,backend=3,spool=8KiB",
			"connection=socket,name=c",
		},
		"seven": {
			"connection=pty,name=1", "connection=pty,name=2", "connection=pty,name=3", "connection=pty,name=4",
			"connection=pty,name=5", "connection=pty,name=6", "connection=socket,name=7,path=/7",
		},
	} {
		t.Run(name, func(t *testing.T) {
			var want []channel.Spec
			for _, s := range specs {
				spec, err := channel.ParseSpec(s)
				if err != nil {
					t.Fatal(err)
				}
				want = append(want, spec)
			}
			f, err := Parse("skeleton", []byte(skeleton))
			if err != nil {
				t.Fatal(err)
			}
			text, err := f.Replace(want)
			if err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command("virt-xml-validate", writeFile(t, text), "domain").CombinedOutput(); err != nil {
				t.Errorf("the schema does not allow it: %v: %s\n%s", err, out, text)
			}
			back, err := virsh(t, text)
			if err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			if diff := cmp.Diff(want, specsOf(t, "of libvirt", back)); diff != "" {
				t.Errorf("-want +got\n%s\n%s", diff, back)
			}
		})
	}
}

// Where we say that libvirt refuses the domain, it does, and it takes all others:
// those that we refuse, its Xen driver refuses when it starts the domain.
func TestLibvirt_refusesWhatWeSay(t *testing.T) {
	requireLibvirt(t)
	const refused = "libvirt refuses the domain"
	for _, c := range []struct{ element, why string }{
		{`<channel type='pty'><target type='xen' name='a'/></channel>`, ""},
		{`<channel type='unix'><target type='xen' name='a'/></channel>`, ""},
		{`<channel><target type='xen' name='a'/></channel>`, ""},
		{`<channel type='unix'><source path='/a'/><target type='xen' name='a'/></channel>`, ""},
		{`<channel type='unix'><source mode='connect' path='/a'/><target type='xen' name='a'/></channel>`, ""},
		{`<channel type='pty'><target type='xen' name='a'/><target type='virtio' name='b'/></channel>`, ""},
		{`<channel type='pty'><source path='/dev/pts/1'/><target type='xen' name='a'/></channel>`, ""},
		{`<channel type='pty'><target type='virtio' name='a'/></channel>`, ""},
		{`<channel type='pty'/>`, refused},
		{`<channel type='pty'><target name='a'/></channel>`, refused},
		{`<channel type='pty'><target type='Xen' name='a'/></channel>`, refused},
		{`<channel type='socket'><target type='xen' name='a'/></channel>`, refused},
		{`<channel type='unix'><source mode='listen' path='/a'/><target type='xen' name='a'/></channel>`, refused},
		{`<channel type='unix'><source path='/a'/><source path='/b'/><target type='xen' name='a'/></channel>`, refused},
		{`<channel type='pty'><target type='xen'/></channel>`, "libvirt's Xen driver"},
		{`<channel type='tcp'><source mode='bind' host='h' service='1'/><target type='xen' name='a'/></channel>`, "libvirt's Xen driver"},
		{`<channel type='null'><target type='xen' name='a'/></channel>`, "libvirt's Xen driver"},
	} {
		text := strings.Replace(skeleton, "<memballoon", c.element+"<memballoon", 1)
		_, err := virsh(t, text)
		if refuses := err != nil; refuses != (c.why == refused) {
			t.Errorf("%s: we say %q, and libvirt %v", c.element, c.why, err)
		}
		f, err := Parse("x", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = f.Stock(xlcfg.Version{})
		all, _ := errors.AsType[domcfg.Errors](err)
		if (err != nil) != (c.why != "") || len(all) > 0 && !strings.HasPrefix(all[0].Why, c.why) {
			t.Errorf("%s: %v, want %q", c.element, err, c.why)
		}
	}
}
