package xenbus

// BackendView is what a backend sees of one device.
type BackendView struct {
	Exists   bool  // our node is there and the domain is alive
	Online   bool  // the toolstack wants the device
	State    State // our own, as published
	Attached bool  // we hold the ring and the event channel

	Frontend FrontendSeen
}

// FrontendSeen is what a backend sees of the other half. All of it can be
// written by the guest.
type FrontendSeen struct {
	Exists bool
	State  State
	// Usable is false when the ring reference or the port is missing or malformed.
	Usable bool
	// Same says that ring and port are those we hold.
	Same bool
	// Failed says that attaching to exactly this ring and port has failed.
	Failed bool
}

// Action is what a machine asks its driver to do.
type Action int

// What a driver does; each at most once a step, before the new state is published.
const (
	Nothing  Action = iota
	Attach          // map and bind what the frontend offers
	Reattach        // let go of the old ring, then Attach
	Detach          // take what is left in the ring, then let go of it
	Forget          // let go, publish nothing: the device is no more
)

// String is the action's name.
func (a Action) String() string {
	return [...]string{"nothing", "attach", "reattach", "detach", "forget"}[a]
}

// Step is one decision: do the action, then publish the state unless it is
// Unknown or already published.
type Step struct {
	Do      Action
	Publish State
}

// Backend decides a backend's next step.
func Backend(v BackendView) Step {
	switch {
	case !v.Exists:
		return Step{Do: Forget}
	case !v.Online || v.State == Closing && !v.wedged():
		return v.unplug()
	case !v.Frontend.Exists:
		return Step{v.letGo(), Closed}
	}
	switch v.Frontend.State {
	case Initialising, InitWait:
		return Step{v.letGo(), InitWait}
	case Initialised, Connected:
		return v.connect()
	case Closing:
		return Step{v.letGo(), Closing}
	case Closed:
		return Step{v.letGo(), Closed}
	case Reconfiguring, Reconfigured:
		return Step{}
	default: // the guest wrote nonsense into its state, or took the node away
		if v.Attached {
			return Step{Detach, Closing}
		}
		return Step{}
	}
}

// wedged says that Closing is our own answer to a frontend that could not be
// served or went away, not the toolstack's wish: the frontend may come again.
func (v BackendView) wedged() bool {
	return v.Online && !v.Attached
}

// unplug answers a toolstack that wants the device gone. The ring is served to
// the very end, when the nodes go: until the guest has seen that its device is
// gone, a program in it may still write, and would hang in a full ring.
func (v BackendView) unplug() Step {
	f := v.Frontend
	live := f.State == Initialised || f.State == Connected
	switch {
	case !f.Exists, !live && !v.Attached:
		return Step{v.letGo(), Closed}
	case f.State == Closed, v.State == Closed:
		return Step{Nothing, Closed}
	case !v.Attached && f.Usable && !f.Failed:
		return Step{Attach, Closing}
	default:
		return Step{Nothing, Closing}
	}
}

func (v BackendView) connect() Step {
	switch f := v.Frontend; {
	case !f.Usable:
		return Step{v.letGo(), Closing}
	case v.Attached && f.Same:
		return Step{Nothing, Connected}
	case v.Attached:
		return Step{Reattach, Connected}
	case f.Failed:
		return Step{Nothing, Closing}
	default:
		return Step{Attach, Connected}
	}
}

func (v BackendView) letGo() Action {
	if v.Attached {
		return Detach
	}
	return Nothing
}
