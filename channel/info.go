package channel

// GuestState is what is known about the program inside the guest. A Linux guest
// does not say when its terminal is opened or closed, so most of it is inferred.
type GuestState string

const (
	// GuestUnknown means that nothing was seen yet. The zero value means it too.
	GuestUnknown GuestState = "unknown"
	// GuestReading means that bytes left the ring towards the guest, so that
	// somebody reads; inferred.
	GuestReading GuestState = "reading"
	// GuestOpen means that the guest helper said so.
	GuestOpen GuestState = "open"
	// GuestClosed means that the guest helper said so.
	GuestClosed GuestState = "closed"
)

// GuestNode is the node in the frontend's directory in which the guest helper says
// "open" or "closed". The guest can write anything there.
const GuestNode = "xenchan-guest"

// MarshalText writes one of the four words; the zero value is "unknown".
func (g GuestState) MarshalText() ([]byte, error) {
	if g == "" {
		g = GuestUnknown
	}
	return []byte(g), nil
}

// Origin says who made a channel.
type Origin string

const (
	// OriginAttached is a channel that somebody attached by hand.
	OriginAttached Origin = "attached"
	// OriginXL is one that xl or libvirt made, as libxl has it, for a QEMU to serve.
	OriginXL Origin = "xl"
	// OriginDeclared is one that a drop-in file declares.
	OriginDeclared Origin = "declared"
)

// Server says who serves a channel now.
type Server string

const (
	ServerDaemon Server = "daemon"
	ServerQEMU   Server = "qemu"
	// ServerStandIn is the domain's device model, when that is ours and serves alone.
	ServerStandIn Server = "xenchan-dm"
	// ServerNone means that no daemon answers for it, or that its QEMU is gone.
	ServerNone Server = "none"
	// ServerUnknown is for a channel whose backend is another domain.
	ServerUnknown Server = "unknown"
)

// Info is one row of `xenchan list`. The JSON keys and their order are a
// contract with scripts. A nil pointer is null: the counters where no daemon
// answers, a state without a node, Port and RingRef while the guest has not
// published them.
type Info struct {
	// DomID, Domain and UUID name the guest. Domain and UUID are empty when
	// xenstore has none.
	DomID  uint16 `json:"domid"`
	Domain string `json:"domain"`
	UUID   string `json:"uuid"`
	// DevID is the number of the console device, from 1.
	DevID int `json:"devid"`
	// Name, Connection and Path are what the toolstack wrote to /libxl; Path is
	// empty for a pty.
	Name       string     `json:"name"`
	Connection Connection `json:"connection"`
	Path       string     `json:"path"`
	// TTY is the terminal of a pty channel, empty until the backend made it.
	TTY string `json:"tty"`
	// State and FrontendState are the xenbus states of the backend and of the
	// guest as numbers (io/xenbus.h, enum xenbus_state; 4 is connected). The
	// guest writes the second one and can write anything: what is no state is 0.
	State         *int `json:"state"`
	FrontendState *int `json:"frontend_state"`
	// BackendDomID is the domain that serves the channel.
	BackendDomID uint16 `json:"backend_domid"`
	// Port and RingRef are what the guest published: the remote port of the
	// event channel and the grant reference of the ring page.
	Port    *uint32 `json:"port"`
	RingRef *uint32 `json:"ring_ref"`
	// Guest is what is known of the program in the guest.
	Guest GuestState `json:"guest"`
	// Clients is how many programs on the host are connected.
	Clients *int `json:"clients"`
	// GuestToHost and HostToGuest count the bytes moved since the channel was
	// attached, Spooled those that wait for a client, and Dropped those that
	// were lost to a full spool.
	GuestToHost *uint64 `json:"guest_to_host_bytes"`
	HostToGuest *uint64 `json:"host_to_guest_bytes"`
	Spooled     *uint64 `json:"spooled_bytes"`
	Dropped     *uint64 `json:"dropped_bytes"`
	// Origin says who made the channel.
	Origin Origin `json:"origin"`
	// DeclaredIn is the name of the drop-in file, when Origin is declared.
	DeclaredIn string `json:"declared_in"`
	// WaitingClients is how many programs on the host are connected but wait
	// for their turn, as one is served at a time. A daemon that may not ask the
	// kernel for their number says 1 for at least one.
	WaitingClients *int `json:"waiting_clients"`
	// Losses are the latest stretches of Dropped, sixteen at the most.
	Losses []Loss `json:"losses"`
	// Refused counts clients that the channel's "allow" does not name.
	Refused *uint64 `json:"refused_clients"`
	// ServedBy says who serves the channel, and QEMUPID which process, when that
	// is a QEMU.
	ServedBy Server `json:"served_by"`
	QEMUPID  *int   `json:"qemu_pid"`
	// Observers is how many programs on the host see what the guest sends, without
	// being clients.
	Observers *int `json:"observers"`
	// Skipped counts the bytes that clients did not want, which began from now.
	Skipped *uint64 `json:"skipped_bytes"`
}
