package daemon_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/xenstore"
	"github.com/xenchan/xenchan/xenstore/wire"
)

// Offsets in the ring's page (io/console.h).
const (
	inCons, inProd   = 3072, 3076
	outCons, outProd = 3080, 3084
)

// violation is one thing that a guest must not do.
type violation struct {
	name string
	// early is done instead of a proper offer, when the backend waits for one.
	early func(*mallory)
	// late is done when the channel is connected.
	late func(*mallory)
	// ends is the state that the backend then comes to and stays in; "" is any.
	ends string
	// lost says that the channel cannot be used again: its nodes are no more.
	lost bool
}

// violations are the ways to break the protocol, by what is broken.
func violations() []violation {
	var all []violation
	for _, some := range [][]violation{ringViolations, offerViolations, portViolations, stateViolations, nodeViolations} {
		all = append(all, some...)
	}
	return all
}

var ringViolations = []violation{
	{name: "out_prod: more than the ring holds", late: func(m *mallory) { m.index(outProd, 5000) }, ends: "5"},
	{name: "out_prod: one more than the ring holds", late: func(m *mallory) { m.index(outProd, 2049) }, ends: "5"},
	{name: "out_prod: moves backwards", late: func(m *mallory) { m.index(outProd, 1<<32-1) }, ends: "5"},
	{name: "out_prod: half of all numbers", late: func(m *mallory) { m.index(outProd, 1<<31) }, ends: "5"},
	{name: "in_cons: ahead of what was sent", late: func(m *mallory) { m.index(inCons, 1) }, ends: "5"},
	{name: "in_cons: moves backwards", late: func(m *mallory) { m.index(inCons, 1<<32-2000) }, ends: "5"},
	{name: "indices impossible from the beginning: out", early: func(m *mallory) {
		m.share()
		m.put(outProd, 9999)
		m.publish()
	}, ends: "5"},
	{name: "indices impossible from the beginning: in", early: func(m *mallory) {
		m.share()
		m.put(inCons, 77)
		m.publish()
	}, ends: "5"},
	{name: "out_cons, which is the backend's", late: func(m *mallory) { m.index(outCons, 1234) }, ends: "4"},
	{name: "in_prod, which is the backend's", late: func(m *mallory) { m.index(inProd, 4321) }, ends: "4"},
	{name: "indices at random while the ring is read", late: func(m *mallory) {
		m.storm(func() { m.index([]int{inCons, inProd, outCons, outProd}[rand.IntN(4)], rand.Uint32()) })
	}, ends: "5"},
	{name: "out_prod flips between right and wrong", late: func(m *mallory) {
		m.storm(func() { m.index(outProd, 100_000); m.index(outProd, 0) })
	}},
	{name: "bytes change while they are read", late: func(m *mallory) {
		m.put(outProd, 2048)
		m.storm(func() { m.scribble(); m.notify() })
	}, ends: "4"},
	{name: "writes without end and without a client", late: func(m *mallory) {
		m.storm(func() { m.index(outProd, m.get(outCons)+2048) })
	}, ends: "4"},
	{name: "writes without an event", late: func(m *mallory) { m.put(outProd, 2048) }, ends: "4"},
	{name: "never reads", late: func(m *mallory) {
		client := m.r.dial(m.c.Path)
		defer client.Close()
		m.r.write(client, pattern(20_000))
	}, ends: "4"},
	{name: "events without end, nothing moved", late: func(m *mallory) { m.storm(m.notify) }, ends: "4"},
	{name: "events without end, a byte each", late: func(m *mallory) {
		m.storm(func() { m.index(outProd, m.get(outCons)+1) })
	}, ends: "4"},
}

// offerViolations are about the grant reference.
var offerViolations = []violation{
	{name: "ring-ref: missing", early: badOffer("ring-ref", ""), ends: "5"},
	{name: "ring-ref: not a number", early: badOffer("ring-ref", "eight"), ends: "5"},
	{name: "ring-ref: negative", early: badOffer("ring-ref", "-8"), ends: "5"},
	{name: "ring-ref: 2^32", early: badOffer("ring-ref", "4294967296"), ends: "5"},
	{name: "ring-ref: a thousand digits", early: badOffer("ring-ref", strings.Repeat("8", 1000)), ends: "5"},
	{name: "ring-ref: 0, which is reserved", early: badOffer("ring-ref", "0"), ends: "5"},
	{name: "ring-ref: never granted", early: badOffer("ring-ref", "999"), ends: "5"},
	{name: "ring-ref: granted to another domain", early: func(m *mallory) {
		m.share()
		p := m.sharePages(5)
		m.set("ring-ref", p.Refs()[0].String())
		m.set("port", m.event.Port().String())
		m.set("state", "3")
	}, ends: "5"},
	{name: "ring-ref: another domain's", early: func(m *mallory) { badOffer("ring-ref", m.foreignRef)(m) }, ends: "5"},
	{name: "ring-ref: a directory", early: func(m *mallory) {
		badOffer("ring-ref", "")(m)
		m.set("ring-ref/8", "8")
		m.set("state", "3")
	}, ends: "5"},
	{name: "ring-ref: revoked before it is mapped", early: func(m *mallory) {
		m.share()
		m.r.check(m.pages.Close())
		m.publish()
	}, ends: "5"},
	{name: "ring-ref: revoked while it is mapped", late: func(m *mallory) {
		m.r.check(m.pages.Close())
		m.notify()
	}, ends: "4"},
	{name: "ring-ref: the same for two devices", late: func(m *mallory) {
		other := m.r.attach(channel.Spec{Name: "twin"})
		port := m.alloc(0)
		for node, value := range map[string]string{"ring-ref": m.pages.Refs()[0].String(), "port": port.Port().String()} {
			m.r.check(m.r.guest.Write(m.r.t.Context(), other.Frontend+"/"+node, value))
		}
		m.r.check(m.r.guest.Write(m.r.t.Context(), other.Frontend+"/state", "3"))
		m.storm(func() { m.index(outProd, m.get(outProd)+100) })
		m.r.remove(other)
	}},
	{name: "ring-ref: changed without a word", late: func(m *mallory) { m.set("ring-ref", "12345") }, ends: "5"}, // once we look
	{name: "ring-ref: changed with state 3", late: func(m *mallory) { m.set("ring-ref", "12345"); m.set("state", "3") }, ends: "5"},
}

var portViolations = []violation{
	{name: "port: missing", early: badOffer("port", ""), ends: "5"},
	{name: "port: 0", early: badOffer("port", "0"), ends: "5"},
	{name: "port: not a number", early: badOffer("port", "1e3"), ends: "5"},
	{name: "port: 2^32-1", early: badOffer("port", "4294967295"), ends: "5"},
	{name: "port: never allocated", early: badOffer("port", "900"), ends: "5"},
	{name: "port: allocated for another domain", early: func(m *mallory) {
		badOffer("port", m.alloc(5).Port().String())(m)
	}, ends: "5"},
	{name: "port: of another device", early: func(m *mallory) {
		taken := m.alloc(0)
		ours, err := m.dom0.BindInterdomain(m.r.dom.ID, taken.Port())
		m.r.check(err)
		defer ours.Close()
		badOffer("port", taken.Port().String())(m)
		m.await("5")
	}, ends: "5"},
	{name: "port: closed before it is bound", early: func(m *mallory) {
		m.share()
		m.r.check(m.event.Close())
		m.publish()
	}, ends: "5"},
	{name: "port: closed while it is bound", late: func(m *mallory) { m.r.check(m.event.Close()) }, ends: "4"},
}

var stateViolations = []violation{
	{name: "state: empty", late: func(m *mallory) { m.set("state", "") }, ends: "5"},
	{name: "state: 9", late: func(m *mallory) { m.set("state", "9") }, ends: "5"},
	{name: "state: a word", late: func(m *mallory) { m.set("state", "connected") }, ends: "5"},
	{name: "state: a thousand bytes", late: func(m *mallory) { m.set("state", strings.Repeat("4", 1000)) }, ends: "5"},
	{name: "state: nonsense from the beginning", early: func(m *mallory) { m.set("state", "-3") }, ends: "2"},
	{name: "state: 7 and 8, which consoles do not have", late: func(m *mallory) { m.set("state", "7"); m.set("state", "8") }, ends: "4"},
	{name: "state: 4 before 3", early: func(m *mallory) {
		m.share()
		m.offer("4")
	}, ends: "4"},
	{name: "state: 6, then 1 without waiting", late: func(m *mallory) { m.set("state", "6"); m.set("state", "1") }, ends: "2"},
	{name: "state: 3 again, with another ring", late: func(m *mallory) {
		m.share()
		m.publish()
	}, ends: "4"},
	{name: "state: 5, and nothing more", late: func(m *mallory) { m.set("state", "5") }, ends: "5"},
	{name: "state: flips at speed", late: func(m *mallory) {
		m.storm(func() { m.set("state", fmt.Sprint(rand.IntN(9))) })
	}},
	{name: "state: the same, without end", late: func(m *mallory) {
		m.storm(func() { m.set("state", "4") })
	}, ends: "4"},
	{name: "state: written by ten at once, with all else", late: func(m *mallory) {
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				m.storm(func() { m.set("state", "4"); m.set("port", m.event.Port().String()) })
			})
		}
		wg.Wait()
	}, ends: "4"},
}

var nodeViolations = []violation{
	{name: "state: removed", late: func(m *mallory) { m.remove("state") }, ends: "5"},
	{name: "state: a directory", late: func(m *mallory) { m.remove("state"); m.set("state/4", "4") }, ends: "5"},
	{name: "directory: removed", late: func(m *mallory) { m.remove("") }, ends: "6", lost: true},
	{name: "directory: removed before the offer", early: func(m *mallory) { m.remove("") }, ends: "6", lost: true},
	{name: "directory: removed and made again", late: func(m *mallory) {
		m.remove("")
		m.set("state", "3") // fails if it may not
	}, lost: true},
	{name: "directory: nobody else may read it", late: func(m *mallory) {
		m.perms(m.c.Frontend)
		m.perms(m.c.Frontend + "/state")
		m.set("state", "4")
	}, ends: "4"},
	{name: "directory: as many nodes as there may be", late: func(m *mallory) {
		for i := range 1100 { // the quota is 1000
			m.set(fmt.Sprintf("state/%d", i), "x")
		}
	}, ends: "4"},
	{name: "watches: as many as there may be", late: func(m *mallory) {
		for range 130 { // the quota is 128
			if w, err := m.r.guest.Watch(m.r.t.Context(), m.c.Frontend); err == nil {
				defer w.Close()
			}
		}
		m.storm(func() { m.set("state", "4") })
	}, ends: "4"},
	{name: "transactions: held open over its nodes", late: func(m *mallory) {
		release := make(chan struct{})
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				_ = m.r.guest.Tx(m.r.t.Context(), func(tx *xenstore.Tx) error {
					_ = tx.Write(m.r.t.Context(), m.c.Frontend+"/state", "4")
					<-release
					return fmt.Errorf("never meant to be committed")
				})
			})
		}
		m.set("state", "8")
		close(release)
		wg.Wait()
	}, ends: "4"},
	{name: "xenstore: requests whose replies nobody reads", late: func(m *mallory) {
		stream, err := m.r.domU.OpenStore(m.r.t.Context())
		m.r.check(err)
		defer stream.Close()
		request := wire.Append(nil, wire.Message{Type: wire.Write, Payload: []byte(m.c.Frontend + "/state\x004")})
		go func() {
			for {
				if _, err := stream.Write(request); err != nil {
					return
				}
			}
		}()
		m.storm(func() { time.Sleep(time.Millisecond) })
	}, ends: "4"},
}

// steps are those of the handshake; a guest dies after each.
var steps = []struct {
	name string
	do   func(*mallory)
}{
	{"before it has seen the device", func(*mallory) {}},
	{"with a ring that nobody knows of", (*mallory).share},
	{"with ring-ref alone", func(m *mallory) {
		m.share()
		m.set("ring-ref", m.pages.Refs()[0].String())
	}},
	{"with ring-ref and port", func(m *mallory) { m.share(); m.offer("1") }},
	{"in state 3", func(m *mallory) { m.share(); m.publish() }},
	{"when the backend is connected", func(m *mallory) { m.share(); m.publish(); m.await("4") }},
	{"in state 4", func(m *mallory) { m.share(); m.publish(); m.await("4"); m.set("state", "4") }},
	{"with a full ring", func(m *mallory) { m.share(); m.publish(); m.await("4"); m.index(outProd, 2048) }},
	{"in state 5", func(m *mallory) { m.share(); m.publish(); m.await("4"); m.set("state", "5") }},
	{"in state 6", func(m *mallory) { m.share(); m.publish(); m.await("4"); m.set("state", "6") }},
	{"in state 1 again", func(m *mallory) {
		m.share()
		m.publish()
		m.await("4")
		m.set("state", "6")
		m.await("6")
		m.set("state", "1")
	}},
}

// badOffer offers a ring of which one node has another value, or is missing if
// that is empty.
func badOffer(node, value string) func(*mallory) {
	return func(m *mallory) {
		m.share()
		m.set("ring-ref", m.pages.Refs()[0].String())
		m.set("port", m.event.Port().String())
		if value == "" {
			m.remove(node)
		} else {
			m.set(node, value)
		}
		m.set("state", "3")
	}
}
