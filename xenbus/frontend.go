package xenbus

// FrontendView is what a frontend sees of one device.
type FrontendView struct {
	Exists   bool  // our node is there
	State    State // our own, as published
	Backend  State // the other half's
	Attached bool  // we have shared a ring
}

// Frontend decides a frontend's next step, as Linux's hvc_xen does: it offers
// its ring without waiting for the backend, and after it has closed it comes back
// only when its state is set to Initialising again.
func Frontend(v FrontendView) Step {
	switch {
	case !v.Exists:
		return Step{Do: Forget}
	case v.State == Initialising && v.Attached:
		return Step{Reattach, Initialised}
	case v.State == Initialising:
		return Step{Attach, Initialised}
	case !v.Attached:
		return Step{}
	case v.Backend == Closing, v.Backend == Closed:
		return Step{Detach, Closed}
	case v.Backend == Connected:
		return Step{Nothing, Connected}
	default:
		return Step{}
	}
}
