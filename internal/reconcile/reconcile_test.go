package reconcile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const agent = "connection=socket,name=agent"

func TestRun_domainsComeAndGo(t *testing.T) {
	r := newRig(t)
	r.file("a.toml", declare("web*", agent)+declare("db", "connection=pty,name=log"))
	before := r.create("web-1") // before there is a daemon
	r.start()
	r.has(before, "agent:declared")
	other := r.create("other")
	after := r.create("web-2")
	r.has(after, "agent:declared")
	c, err := r.tools.Find(t.Context(), after, "agent")
	r.check(err)
	if c.DeclaredIn != "a.toml" || c.DeclaredAs != agent || c.Path != filepath.Join(r.tools.RunDir, "web-2/agent.sock") {
		t.Errorf("%+v", c)
	}
	// A reboot is a new domain of the same name.
	r.check(r.host.DestroyDomain(before.ID))
	again := r.create("web-1")
	r.has(again, "agent:declared")
	r.has(other, "")
	if again.ID == before.ID || len(r.backends()) != 2 {
		t.Errorf("domain %v, backends %v", again.ID, r.backends())
	}
	// What is detached by hand is still declared.
	r.check(r.tools.Detach(t.Context(), again, "agent"))
	r.has(again, "agent:declared")
}

// A domain that migrates in has its channels before xl gives it its name; on the
// same host, when the domain that it was before has let go of the socket.
func TestRun_migration(t *testing.T) {
	r := newRig(t)
	r.file("a.toml", declare("*", agent, "connection=pty,name=b"))
	rec, _ := r.start()
	source := r.create("web")
	r.has(source, "agent:declared b:declared")
	target := r.create("web--incoming")
	r.has(target, "b:declared")
	if got := strings.Join(r.apply(rec), ", "); got != "web/agent kept, web/b kept, web/agent waiting, web/b kept" {
		t.Error(got)
	}
	r.rename(source, "web--migratedaway")
	r.rename(target, "web")
	bystander := r.create("bystander")
	r.has(bystander, "agent:declared b:declared")
	r.has(source, "agent:declared b:declared")
	r.has(target, "b:declared")
	r.check(r.host.DestroyDomain(source.ID))
	r.has(target, "agent:declared b:declared")
	c, err := r.tools.Find(t.Context(), target, "agent")
	r.check(err)
	if c.Path != filepath.Join(r.tools.RunDir, "web/agent.sock") {
		t.Error(c.Path)
	}
	// Another name that no file knows.
	r.file("a.toml", declare("web", agent))
	r.apply(rec)
	r.has(bystander, "")
	r.rename(target, "elsewhere")
	r.has(target, "")
}

// A new name is enough.
func TestRun_rename(t *testing.T) {
	r := newRig(t)
	r.file("a.toml", declare("web", agent))
	d := r.create("early")
	rec, _ := r.start()
	for range 10 { // until nothing else can be a reason to look
		r.apply(rec)
	}
	r.rename(d, "web")
	r.has(d, "agent:declared")
}

// Nothing is done to a domain before libxl has written its own consoles, nor
// after it began to remove them.
func TestRun_notInTheMaking(t *testing.T) {
	r := newRig(t)
	d := r.create("web")
	console := "/libxl/" + d.ID.String() + "/device/console/0"
	r.check(r.store.Remove(t.Context(), console))
	r.file("a.toml", declare("web", agent))
	rec, _ := r.start()
	if got := r.apply(rec); len(got) != 1 || got[0] != "web/agent waiting" {
		t.Errorf("%v", got)
	}
	r.has(d, "")
	r.check(r.store.Write(t.Context(), console+"/frontend", ""))
	r.has(d, "agent:declared")
	r.check(r.store.Remove(t.Context(), console))
	r.check(r.tools.Detach(t.Context(), d, "agent"))
	if got := r.apply(rec); len(got) != 1 || got[0] != "web/agent waiting" {
		t.Errorf("%v", got)
	}
	r.has(d, "")
	r.check(r.store.Remove(t.Context(), "/libxl/"+d.ID.String())) // of a toolstack without libxl
	rec.Reload()
	r.has(d, "agent:declared")
}

// Domains that end at any moment leave nothing.
func TestRun_domainsThatDie(t *testing.T) {
	r := newRig(t)
	r.file("a.toml", declare("*", agent, "connection=pty,name=b", "connection=socket,name=c"))
	rec, _ := r.start()
	for i := range 60 {
		d := r.create("web")
		for len(r.backends()) < i%4 { // while it gets the first, second, third channel, and before
		}
		r.check(r.host.DestroyDomain(d.ID))
	}
	r.apply(rec)
	if left := r.backends(); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestApply_files(t *testing.T) {
	r := newRig(t)
	d, e := r.create("web"), r.create("db")
	rec, _ := r.start()
	steps := []struct {
		what     string
		do       func()
		want     []string
		web, idb string
	}{
		{"no file", func() {}, nil, "", ""},
		{"added", func() { r.file("a.toml", declare("web", agent)) }, []string{"web/agent attached"}, "agent:declared", ""},
		{"again", func() {}, []string{"web/agent kept"}, "agent:declared", ""},
		{
			"one more", func() { r.file("b.toml", declare("*", "connection=pty,name=log")) },
			[]string{"web/agent kept", "web/log attached", "db/log attached"},
			"agent:declared log:declared", "log:declared",
		},
		{
			"changed", func() { r.file("a.toml", declare("web", agent+",spool=4MiB")) },
			[]string{"web/agent replaced", "web/log kept", "db/log kept"},
			"agent:declared log:declared", "log:declared",
		},
		{
			"written otherwise", func() { r.file("a.toml", declare("web", "spool=4M , name=agent,connection=socket")) },
			[]string{"web/agent kept", "web/log kept", "db/log kept"},
			"agent:declared log:declared", "log:declared",
		},
		{
			"moved", func() { r.check(os.Rename(filepath.Join(r.drop, "a.toml"), filepath.Join(r.drop, "c.toml"))) },
			[]string{"web/agent kept", "web/log kept", "db/log kept"},
			"agent:declared log:declared", "log:declared",
		},
		{
			"removed", func() { r.check(os.Remove(filepath.Join(r.drop, "b.toml"))) },
			[]string{"web/agent kept", "web/log detached", "db/log detached"},
			"agent:declared", "",
		},
		{"all removed", func() { r.check(os.RemoveAll(r.drop)) }, []string{"web/agent detached"}, "", ""},
	}
	for _, s := range steps {
		s.do()
		dry, err := rec.Apply(t.Context(), true)
		r.check(err)
		if diff := cmp.Diff(s.want, words(dry.Channels)); diff != "" || !dry.DryRun {
			t.Errorf("%s: dry run (-want +got):\n%s", s.what, diff)
		}
		if diff := cmp.Diff(s.want, r.apply(rec)); diff != "" {
			t.Errorf("%s: (-want +got):\n%s", s.what, diff)
		}
		if r.channels(d) != s.web || r.channels(e) != s.idb {
			t.Errorf("%s: %q, %q", s.what, r.channels(d), r.channels(e))
		}
		if s.what == "moved" {
			if c, err := r.tools.Find(t.Context(), d, "agent"); err != nil || c.DeclaredIn != "c.toml" {
				t.Errorf("%+v, %v", c, err)
			}
		}
	}
}

// Two channels change places in one go.
func TestApply_swap(t *testing.T) {
	r := newRig(t)
	r.create("web")
	dir := t.TempDir()
	spec := func(name, file string) string {
		return "connection=socket,name=" + name + ",path=" + filepath.Join(dir, file)
	}
	r.file("a.toml", declare("web", spec("a", "1"), spec("b", "2")))
	rec, _ := r.start()
	r.apply(rec)
	r.file("a.toml", declare("web", spec("a", "2"), spec("b", "1")))
	if diff := cmp.Diff([]string{"web/a replaced", "web/b replaced"}, r.apply(rec)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"web/a kept", "web/b kept"}, r.apply(rec)); diff != "" {
		t.Error(diff)
	}
}

// A broken file keeps what it made, stops nobody else, and applies to nothing.
func TestBrokenFile(t *testing.T) {
	r := newRig(t)
	d := r.create("web")
	r.file("a.toml", declare("web", agent))
	rec, stop := r.start()
	r.has(d, "agent:declared")
	r.file("a.toml", "[[domain]\n")
	r.file("b.toml", declare("web", "connection=pty,name=b"))
	report, err := rec.Apply(t.Context(), false)
	r.check(err)
	if len(report.Mistakes) != 1 || report.Mistakes[0].Line != 1 || !strings.HasPrefix(report.Mistakes[0].Message, filepath.Join(r.drop, "a.toml")+":1:") || len(report.Channels) > 0 {
		t.Errorf("%+v", report)
	}
	r.has(d, "agent:declared")
	rec.Reload()
	r.has(d, "agent:declared b:declared")
	stop() // and the next daemon knows it too
	rec, _ = r.start()
	r.file("b.toml", "")
	rec.Reload()
	r.has(d, "agent:declared")
	r.eventually(func() (bool, string) {
		row := r.row(rec, "agent")
		return row.Action == Kept && strings.Contains(row.Problem, "its file has an error") && len(rec.Report().Mistakes) == 1, row.Problem
	})
	r.check(r.host.DestroyDomain(d.ID))
	other := r.create("web") // a broken file makes nothing new
	r.file("c.toml", declare("web", "connection=pty,name=c"))
	rec.Reload()
	r.has(other, "c:declared")
	r.file("a.toml", declare("web", agent))
	r.apply(rec)
	r.has(other, "agent:declared c:declared")
}

// What others have made is left alone, until they take it away.
func TestConflict(t *testing.T) {
	r := newRig(t)
	d := r.create("web")
	byHand, xl := socket, socket
	byHand.Name, xl.Name = "agent", "stock"
	_, err := r.tools.Attach(t.Context(), d, byHand)
	r.check(err)
	c, err := r.tools.Attach(t.Context(), d, xl)
	r.check(err)
	r.check(r.store.Remove(t.Context(), "/libxl/"+d.ID.String()+"/device/console/2/origin"))
	r.check(r.store.Write(t.Context(), c.Frontend+"/type", "ioemu"))
	r.file("a.toml", declare("web", agent, "connection=pty,name=stock", "connection=pty,name=fine"))
	rec, _ := r.start()
	want := []string{"web/agent conflict", "web/fine attached", "web/stock conflict"}
	if diff := cmp.Diff(want, r.apply(rec)); diff != "" && !strings.Contains(diff, "fine kept") {
		t.Error(diff)
	}
	if p := r.row(rec, "agent").Problem; !strings.Contains(p, "made by hand, which is left alone: detach it") {
		t.Error(p)
	}
	if p := r.row(rec, "stock").Problem; !strings.Contains(p, "made by xl or libvirt") {
		t.Error(p)
	}
	r.has(d, "agent:attached fine:declared stock:xl")
	r.check(r.tools.Detach(t.Context(), d, "agent"))
	r.has(d, "agent:declared fine:declared stock:xl")
	r.file("a.toml", "")
	r.apply(rec)
	r.has(d, "stock:xl")
}

// Files that contradict each other say so, and both places; others are served.
func TestContradiction(t *testing.T) {
	r := newRig(t)
	d, e := r.create("web-1"), r.create("db")
	r.file("a.toml", declare("web-[1]", agent, "connection=pty,name=fine"))
	rec, _ := r.start()
	r.has(d, "agent:declared fine:declared")
	r.file("b.toml", declare("*-1", "connection=pty,name=agent")+declare("db", agent)) // no file alone shows it
	rec.Reload()
	r.has(e, "agent:declared")
	r.has(d, "agent:declared fine:declared") // as it was
	r.eventually(func() (bool, string) {
		var said []string
		for _, row := range rec.Report().Channels {
			if row.Action == Conflict {
				said = append(said, row.Domain+"/"+row.Name+": "+row.Problem)
			}
		}
		all := strings.Join(said, "\n")
		return len(said) == 1 && strings.HasPrefix(all, "web-1/agent: ") && strings.Contains(all, "b.toml:3:14: channel agent is declared differently") &&
			strings.Contains(all, "a.toml:3:14"), all
	})
	r.has(d, "agent:declared fine:declared")
	same := "connection=socket,path=" + filepath.Join(t.TempDir(), "s") + ",name=p"
	r.file("b.toml", declare("*", same))
	got := strings.Join(r.apply(rec), ", ")
	if !strings.Contains(got, "web-1/p attached") || !strings.Contains(got, "db/p conflict") {
		t.Error(got)
	}
	r.check(r.host.DestroyDomain(d.ID))
	r.has(e, "p:declared")
}

// What fails is tried again, and stands in the report meanwhile.
func TestFailure_isRetried(t *testing.T) {
	r := newRig(t)
	d := r.create("web")
	dir := filepath.Join(t.TempDir(), "later")
	r.file("a.toml", declare("web", "connection=socket,name=a,path="+dir+"/a.sock", "connection=pty,name=b", "connection=pty,name=c,backend=driver"))
	rec, _ := r.start()
	r.has(d, "b:declared")
	want := []string{"web/a failed", "web/b kept", "web/c failed"}
	if diff := cmp.Diff(want, r.apply(rec)); diff != "" {
		t.Error(diff)
	}
	if p := r.row(rec, "a").Problem; !strings.Contains(p, "there is no directory") {
		t.Error(p)
	}
	r.check(os.Mkdir(dir, 0o755))
	r.create("driver")
	r.has(d, "a:declared b:declared c:declared")
}

// A reconciler that was killed in the middle of a detach leaves a channel that is
// closed for good: the next one takes it away, and makes it again if it is declared.
func TestKilledInTheMiddle(t *testing.T) {
	r := newRig(t)
	d := r.create("web")
	r.file("a.toml", declare("web", agent, "connection=pty,name=b"))
	_, stop := r.start()
	r.has(d, "agent:declared b:declared")
	stop()
	old, err := r.tools.Find(t.Context(), d, "agent")
	r.check(err)
	instance, err := r.store.Read(t.Context(), old.Backend+"/instance")
	r.check(err)
	for _, name := range []string{"agent", "b"} {
		c, err := r.tools.Find(t.Context(), d, name)
		r.check(err)
		r.check(r.store.Write(t.Context(), c.Backend+"/online", "0"))
		r.check(r.store.Write(t.Context(), c.Backend+"/state", "6"))
		r.check(r.store.Write(t.Context(), c.Frontend+"/state", "6"))
	}
	r.check(r.store.Remove(t.Context(), old.Frontend)) // detach was further with this one
	r.file("a.toml", declare("web", agent))
	r.start()
	r.eventually(func() (bool, string) {
		now, err := r.tools.Find(t.Context(), d, "agent")
		if err != nil {
			return false, err.Error()
		}
		is, _ := r.store.Read(t.Context(), now.Backend+"/instance")
		return is != instance && *now.State == 1 && now.FrontendState != nil, "it is still the old one"
	})
	r.has(d, "agent:declared")
}

// Only the control domain gives channels.
func TestRun_driverDomain(t *testing.T) {
	r := newRig(t)
	d := r.create("web")
	r.file("a.toml", declare("web", agent))
	r.check(r.store.Write(t.Context(), "/local/domain/0/domid", "5"))
	rec, _ := r.start()
	if _, err := rec.Apply(t.Context(), false); err == nil || !strings.Contains(err.Error(), "this is domain 5, and only the control domain gives channels") {
		t.Errorf("Apply: %v", err)
	}
	if got := r.channels(d); got != "" {
		t.Error(got)
	}
}
