package xenbus

import (
	"testing"

	"pgregory.net/rapid"
)

func TestParseState_trustsNothing(t *testing.T) {
	for s, want := range map[string]State{
		"1": Initialising, "4": Connected, "8": Reconfigured, "0": Unknown,
		"": Unknown, "9": Unknown, "04": Unknown, "4\n": Unknown, "-1": Unknown, "four": Unknown,
	} {
		if got := ParseState(s); got != want {
			t.Errorf("ParseState(%q) = %v, want %v", s, got, want)
		}
	}
}

func seen(s State) FrontendSeen { return FrontendSeen{Exists: true, State: s, Usable: true} }

func TestBackend_table(t *testing.T) {
	same := FrontendSeen{Exists: true, State: Connected, Usable: true, Same: true}
	failed := FrontendSeen{Exists: true, State: Initialised, Usable: true, Failed: true}
	on := func(s State, attached bool, f FrontendSeen) BackendView {
		return BackendView{Exists: true, Online: true, State: s, Attached: attached, Frontend: f}
	}
	off := func(s State, attached bool, f FrontendSeen) BackendView {
		v := on(s, attached, f)
		v.Online = false
		return v
	}
	for _, c := range []struct {
		name string
		view BackendView
		want Step
	}{
		{"new device, guest not there yet", on(Initialising, false, seen(Initialising)), Step{Nothing, InitWait}},
		{"guest offers its ring", on(InitWait, false, seen(Initialised)), Step{Attach, Connected}},
		{"guest was faster than we", on(Initialising, false, seen(Initialised)), Step{Attach, Connected}},
		{"in service", on(Connected, true, same), Step{Nothing, Connected}},
		{"daemon restarted", on(Connected, false, seen(Connected)), Step{Attach, Connected}},
		{"guest resumed with a new ring", on(Connected, true, seen(Initialised)), Step{Reattach, Connected}},
		{"attaching failed", on(Connected, false, failed), Step{Nothing, Closing}},
		{"still failed", on(Closing, false, failed), Step{Nothing, Closing}},
		{"another ring after a failure", on(Closing, false, seen(Initialised)), Step{Attach, Connected}},
		{"ring reference deleted", on(Connected, true, FrontendSeen{Exists: true, State: Connected}), Step{Detach, Closing}},
		{"guest closes", on(Connected, true, seen(Closing)), Step{Detach, Closing}},
		{"guest closed", on(Connected, true, seen(Closed)), Step{Detach, Closed}},
		{"guest comes again", on(Closed, false, seen(Initialising)), Step{Nothing, InitWait}},
		{"guest restarts without closing", on(Connected, true, seen(Initialising)), Step{Detach, InitWait}},
		{"nonsense state", on(Connected, true, seen(Unknown)), Step{Detach, Closing}},
		{"guest deleted its nodes", on(Connected, true, FrontendSeen{}), Step{Detach, Closed}},
		{"destroyed", BackendView{Attached: true}, Step{Forget, Unknown}},
		{"unplug asked", off(Closing, true, same), Step{Nothing, Closing}},
		{"unplug asked by online alone", off(Connected, true, same), Step{Nothing, Closing}},
		{"unplug, guest has closed", off(Closing, true, seen(Closed)), Step{Nothing, Closed}},
		{"unplug, never connected", off(Closing, false, seen(Initialising)), Step{Nothing, Closed}},
		{"unplug, frontend gone", off(Closing, true, FrontendSeen{}), Step{Detach, Closed}},
		{"unplug after a restart: the guest may hang in a full ring", off(Closing, false, seen(Connected)), Step{Attach, Closing}},
		{"unplug done", off(Closed, true, seen(Closed)), Step{Nothing, Closed}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Backend(c.view); got != c.want {
				t.Errorf("%+v: got %v, publish %v; want %v, publish %v", c.view, got.Do, got.Publish, c.want.Do, c.want.Publish)
			}
		})
	}
}

// link is two machines and the nodes between them. Steps run in any order and
// any number, as watches may be late, merged or repeated.
type link struct {
	exists, online bool
	be, fe         State
	ring, backRing int // ring the guest offers and the one we hold; 0 is none
	frontAttached  bool
}

func (l *link) backend() bool {
	before := *l
	s := Backend(BackendView{
		Exists: l.exists, Online: l.online, State: l.be, Attached: l.backRing != 0,
		Frontend: FrontendSeen{Exists: l.exists, State: l.fe, Usable: l.ring != 0, Same: l.ring == l.backRing},
	})
	switch s.Do {
	case Attach, Reattach:
		l.backRing = l.ring
	case Detach, Forget:
		l.backRing = 0
	}
	if s.Publish != Unknown {
		l.be = s.Publish
	}
	return *l != before
}

func (l *link) frontend() bool {
	before := *l
	s := Frontend(FrontendView{Exists: l.exists, State: l.fe, Backend: l.be, Attached: l.frontAttached})
	switch s.Do {
	case Attach, Reattach:
		l.ring, l.frontAttached = l.ring+1, true
	case Detach, Forget:
		l.frontAttached = false
	}
	if s.Publish != Unknown {
		l.fe = s.Publish
	}
	return *l != before
}

func (l *link) settle(t *rapid.T) {
	for range 50 {
		a, b := l.backend(), l.frontend()
		if !a && !b {
			return
		}
	}
	t.Fatalf("the machines never come to rest: %+v", *l)
}

func TestMachines_anyOrderComesToRest(t *testing.T) { rapid.Check(t, comesToRest) }

func FuzzMachines(f *testing.F) {
	f.Add(make([]byte, 256))
	f.Fuzz(rapid.MakeFuzz(comesToRest))
}

// comesToRest is the property that the machines agree after any order of events.
func comesToRest(t *rapid.T) {
	l := &link{exists: true, online: true, be: Initialising, fe: Initialising}
	t.Repeat(map[string]func(*rapid.T){
		"backend":        func(*rapid.T) { l.backend() },
		"frontend":       func(*rapid.T) { l.frontend() },
		"daemon killed":  func(*rapid.T) { l.backRing = 0 },
		"guest resumes":  func(*rapid.T) { l.fe = Initialising },
		"guest nonsense": func(t *rapid.T) { l.fe = State(rapid.IntRange(0, 8).Draw(t, "state")) },
		"":               func(*rapid.T) {},
	})
	l.fe = Initialising // the guest binds its driver again
	l.settle(t)
	if l.be != Connected || l.fe != Connected || l.backRing != l.ring || !l.frontAttached {
		t.Fatalf("not connected at rest: %+v", *l)
	}
	l.online, l.be = false, Closing
	l.settle(t)
	if l.be != Closed || l.fe != Closed {
		t.Fatalf("not closed after an unplug: %+v", *l)
	}
	l.exists = false
	l.settle(t)
	if l.backRing != 0 || l.frontAttached {
		t.Fatalf("something is held after the nodes went: %+v", *l)
	}
}
