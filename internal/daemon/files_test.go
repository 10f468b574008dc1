package daemon

import (
	"testing"

	"github.com/xenchan/xenchan/xen"
)

// Channels leave a quarter for clients, and clients an eighth for channels to come, as long
// as more may come. The first channel of a domain takes two more than the others.
func TestFiles(t *testing.T) {
	f := files{limit: 1600}
	if n := f.most(); n != 1200 {
		t.Errorf("room for %d channels", n)
	}
	dom := xen.DomID(0)
	domains := func(want int) { // with a channel each
		t.Helper()
		n := 0
		for f.channel(dom + 1) {
			n++
			dom++
		}
		if n != want {
			t.Errorf("%d domains, want %d", n, want)
		}
	}
	channels := func(want int) { // of one domain that has some
		t.Helper()
		n := 0
		for f.channel(dom) {
			n++
		}
		if n != want {
			t.Errorf("%d channels, want %d", n, want)
		}
	}
	clients := func(want int) {
		t.Helper()
		n := 0
		for f.client(5) {
			n++
		}
		if n != want {
			t.Errorf("%d clients, want %d", n, want)
		}
	}
	domains(400)
	channels(0)
	if n := f.most(); n != 400 {
		t.Errorf("room for %d channels of 400 domains", n)
	}
	clients(80)
	for range 100 {
		f.channelGone(dom)
		dom--
	}
	clients(20) // of the 300 that are free, 200 are for channels
	domains(66)
	channels(2)
	f.channelGone(dom)
	channels(1)
	f = files{limit: 1600}
	clients(280)
	domains(66)
	if n := f.most(); n != 200-66*2 {
		t.Errorf("room for %d channels beside 280 clients", n)
	}
	f.have(-1000)
	if n := f.most(); n != 1200-66*2 {
		t.Errorf("room for %d channels when 200 clients have left", n)
	}
	domains(334)
	f = files{}
	for range 1_000_000 {
		if !f.channel(1) || !f.client(5) {
			t.Fatal("there is a limit where there is none")
		}
	}
}
