package channel

import "time"

// EventKind says what an Event is about.
type EventKind string

const (
	// EventPresent is a channel that was there when the watch began.
	EventPresent EventKind = "present"
	// EventAttach and EventDetach are a channel's nodes that came and went.
	EventAttach EventKind = "attach"
	EventDetach EventKind = "detach"
	// EventState is another xenbus state of either half.
	EventState EventKind = "state"
	// EventClient is a program on the host that came, left, or waits its turn.
	EventClient EventKind = "client"
	// EventGuest is something new about the program in the guest.
	EventGuest EventKind = "guest"
	// EventLoss is bytes of the guest that a full spool has dropped.
	EventLoss EventKind = "loss"
	// EventSkip is bytes of the guest that a client did not want, which begins from now.
	EventSkip EventKind = "skip"
	// EventObserver is an observer that came or left.
	EventObserver EventKind = "observer"
	// EventDaemon is the daemon that came or went, and with it the client, guest
	// and loss events.
	EventDaemon EventKind = "daemon"
	// EventMissed says that events were left out, as nobody took them in time.
	EventMissed EventKind = "missed"
)

// EventKinds are all kinds of events.
func EventKinds() []EventKind {
	return []EventKind{
		EventPresent, EventAttach, EventDetach, EventState, EventClient,
		EventGuest, EventLoss, EventSkip, EventObserver, EventDaemon, EventMissed,
	}
}

// How a channel's clients have changed.
const (
	ClientConnected = "connected"
	ClientLeft      = "left"
	// ClientWaiting is another one that waits for its turn.
	ClientWaiting = "waiting"
)

// Event is one line of `xenchan watch -o json` and of the daemon's event stream.
// The JSON keys are a contract with scripts. Which of them an event has depends
// on its kind.
type Event struct {
	// Seq counts the events of one daemon from 1. A gap means that events were
	// missed; xenstore's have none.
	Seq  uint64    `json:"seq,omitempty"`
	Time time.Time `json:"time"`
	Kind EventKind `json:"event"`
	// The channel, for all kinds but daemon and missed.
	DomID  uint16 `json:"domid,omitempty"`
	Domain string `json:"domain,omitempty"`
	DevID  int    `json:"devid,omitempty"`
	Name   string `json:"name,omitempty"`
	// Channel is the row that list has, for present and attach.
	Channel *Info `json:"channel,omitempty"`
	// State and FrontendState are what both are now, for state; a state without
	// a node is left out.
	State         *int `json:"state,omitempty"`
	FrontendState *int `json:"frontend_state,omitempty"`
	// Change is what has happened to the clients and Clients and WaitingClients
	// what is so now, for client; Change and Observers are the same for observer. PID
	// and UID are who came or left, where known.
	Change         string  `json:"change,omitempty"`
	Clients        *int    `json:"clients,omitempty"`
	WaitingClients *int    `json:"waiting_clients,omitempty"`
	PID            *int32  `json:"pid,omitempty"`
	UID            *uint32 `json:"uid,omitempty"`
	// Guest is what is known now, for guest.
	Guest GuestState `json:"guest,omitempty"`
	// Lost is how many bytes are lost, where, and Dropped how many in all, for loss.
	Lost    *Loss   `json:"lost,omitempty"`
	Dropped *uint64 `json:"dropped_bytes,omitempty"`
	// Skipped is how many bytes were skipped, and AllSkipped how many in all, for skip.
	Skipped    uint64  `json:"skipped,omitempty"`
	AllSkipped *uint64 `json:"skipped_bytes,omitempty"`
	// Observers is how many there are now, for observer.
	Observers *int `json:"observers,omitempty"`
	// Running says whether a daemon answers, for daemon.
	Running *bool `json:"running,omitempty"`
	// Missed is how many events were left out, for missed.
	Missed uint64 `json:"missed,omitempty"`
}

// Loss is bytes that a guest has sent and nobody will get. Positions count the
// bytes from the guest since the channel was attached.
type Loss struct {
	// Bytes is exactly how many are lost.
	Bytes int64 `json:"bytes"`
	// From is the position of the first, To that behind the last. In between
	// are bytes that were not lost only if Bytes is less than To - From: stretches
	// that came too fast to be told one by one.
	From int64 `json:"from"`
	To   int64 `json:"to"`
}
