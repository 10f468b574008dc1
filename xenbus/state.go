// Package xenbus is how the two halves of a split device find each other: the
// states that frontend and backend publish in xenstore, and the machine that each
// half runs. Both machines are pure functions from what was seen to what to do
// next. They look at levels, not at changes, so a missed or repeated event cannot
// lead them astray, and a process that starts in the middle does the right thing.
//
//	frontend (the guest, as Linux's hvc_xen)      backend (we)
//
//	1 Initialising ──publishes ring──► 3          1, 2 InitWait
//	3 Initialised  ─────────────────────────────► maps and binds, then 4
//	4 Connected    ◄──────────────────────────── 4 Connected
//	6 Closed       ◄──────────────────────────── 5 Closing (unplug)
//	6 Closed       ─────────────────────────────► unmaps, then 6 Closed
//	1 Initialising ─────────────────────────────► 2 InitWait (comes again)
//	gone           ─────────────────────────────► unmaps, 6 Closed
//
// States: Xen's public header io/xenbus.h, enum xenbus_state.
package xenbus

import (
	"fmt"
	"strconv"
)

// State is what one half of a device publishes in its node "state".
type State int

// The states of io/xenbus.h. A missing or unreadable node is Unknown.
const (
	Unknown State = iota
	Initialising
	InitWait
	Initialised
	Connected
	Closing
	Closed
	Reconfiguring
	Reconfigured
)

var stateNames = [...]string{
	"unknown", "initialising", "initwait", "initialised", "connected",
	"closing", "closed", "reconfiguring", "reconfigured",
}

// String is the state's name in lower case.
func (s State) String() string {
	if s >= 0 && int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("state %d", int(s))
}

// Decimal is the form in xenstore.
func (s State) Decimal() string { return strconv.Itoa(int(s)) }

// ParseState reads a "state" node. The other half wrote it, so everything that
// is not exactly one of the states is Unknown.
func ParseState(s string) State {
	if len(s) == 1 && s[0] >= '0' && s[0] <= '8' {
		return State(s[0] - '0')
	}
	return Unknown
}
