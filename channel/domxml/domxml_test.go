package domxml

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/xenchan/xenchan/channel"
)

func TestParse_limits(t *testing.T) {
	deep := func(n int) string { return strings.Repeat("<domain>", n) + strings.Repeat("</domain>", n) }
	many := func(n int) string { return "<domain>" + strings.Repeat("<a/>", n-1) + "</domain>" }
	long := func(n int) string {
		return "<domain>" + strings.Repeat(" ", n-len("<domain></domain>")) + "</domain>"
	}
	for _, c := range []struct{ allowed, refused, want string }{
		{deep(maxDepth), deep(maxDepth + 1), "x:1:2049: elements nested more than 256 deep"},
		{many(maxElements), many(maxElements + 1), "x:1:200005: too many elements"},
		{long(MaxFileSize), long(MaxFileSize + 1), "x:1:1: file of 1048577 bytes"},
	} {
		if _, err := Parse("x", []byte(c.allowed)); err != nil {
			t.Errorf("%s: %v", c.want, err)
		}
		if _, err := Parse("x", []byte(c.refused)); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%v, want %s", err, c.want)
		}
	}
}

// A hundred thousand faults are told in a hundred lines, and always the same.
func TestStock_isBounded(t *testing.T) {
	src := []byte("<domain type='xen'><name>w</name><devices>" + strings.Repeat("<channel><target/><target/></channel>", 16_000) + "</devices></domain>")
	f, err := Parse("x", src)
	if err != nil {
		t.Fatal(err)
	}
	_, warnings, err := Stock(f)
	if n := len(errorsOf(err)); n != 51 || len(warnings) != 50 {
		t.Errorf("%d errors, %d warnings", n, len(warnings))
	}
}

// What is put in is set out as what there is.
func TestReplace_layout(t *testing.T) {
	pty := channel.Spec{Name: "a", Connection: channel.PTY}
	own := channel.Spec{Name: "b", Connection: channel.PTY, Spool: 4096}
	const head, element, ours = "<domain type='xen'>", "<channel type='pty'><target type='xen' name='a'/></channel>",
		"<xenchan:channels xmlns:xenchan='https://github.com/xenchan/xenchan'><xenchan:channel name='b' spool='4KiB'/></xenchan:channels>"
	for _, c := range []struct {
		name, before, after string
		specs               []channel.Spec
	}{
		{"on one line", head + "<name>w</name><devices></devices></domain>", head + "<name>w</name><devices>" + element + "</devices></domain>", []channel.Spec{pty}},
		{"an empty tag on one line", head + "<name>w</name><devices /></domain>", head + "<name>w</name><devices>" + element + "</devices></domain>", []channel.Spec{pty}},
		{
			"no devices", head + "\n <name>w</name>\n</domain>\n",
			head + "\n <name>w</name>\n <devices>\n   <channel type='pty'>\n     <target type='xen' name='a'/>\n   </channel>\n </devices>\n</domain>\n",
			[]channel.Spec{pty},
		},
		{
			"an empty tag and tabs", head + "\n\t<name>w</name>\n\t<devices/>\n</domain>\n",
			head + "\n\t<name>w</name>\n\t<devices>\n\t\t<channel type='pty'>\n\t\t\t<target type='xen' name='a'/>\n\t\t</channel>\n\t</devices>\n</domain>\n",
			[]channel.Spec{pty},
		},
		{
			"lines of Windows", head + "\r\n  <name>w</name>\r\n  <devices>\r\n    <disk/>\r\n  </devices>\r\n</domain>\r\n",
			head + "\r\n  <name>w</name>\r\n  <devices>\r\n    <disk/>\r\n    <channel type='pty'>\r\n      <target type='xen' name='a'/>\r\n    </channel>\r\n  </devices>\r\n</domain>\r\n",
			[]channel.Spec{pty},
		},
		{
			"behind another", head + "\n  <name>w</name>\n  <devices>\n    " + element + "  <!-- a -->\n  </devices>\n</domain>",
			head + "\n  <name>w</name>\n  <devices>\n    " + element + "\n    <channel type='pty'>\n      <target type='xen' name='c'/>\n    </channel>  <!-- a -->\n  </devices>\n</domain>",
			[]channel.Spec{pty, {Name: "c", Connection: channel.PTY}},
		},
		{
			"with metadata", head + "<name>w</name><metadata/><devices><disk/></devices></domain>",
			head + "<name>w</name><metadata>" + ours + "</metadata><devices><disk/><channel type='pty'><target type='xen' name='b'/></channel></devices></domain>",
			[]channel.Spec{own},
		},
		{
			"without metadata", head + "<name>w</name><metadata><x xmlns='y'/>" + ours + "</metadata><devices><channel type='pty'><target type='xen' name='b'/></channel></devices></domain>",
			head + "<name>w</name><metadata><x xmlns='y'/></metadata><devices></devices></domain>", nil,
		},
	} {
		f, err := Parse("x", []byte(c.before))
		if err != nil {
			t.Fatal(err)
		}
		got, err := Replace(f, c.specs)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if diff := cmp.Diff(c.after, got); diff != "" {
			t.Errorf("%s: -want +got\n%s", c.name, diff)
		}
	}
}
