package daemon

import "testing"

// Channels leave a quarter for clients, and clients an eighth for channels to come, as long
// as more may come.
func TestFiles(t *testing.T) {
	f := files{limit: 1600}
	if n := f.most(); n != 400 {
		t.Errorf("room for %d channels", n)
	}
	channels := func(want int) {
		t.Helper()
		n := 0
		for f.channel() {
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
	channels(400)
	clients(80)
	for range 100 {
		f.channelGone()
	}
	clients(20) // of the 300 that are free, 200 are for channels
	channels(66)
	f = files{limit: 1600}
	clients(280)
	channels(66)
	f.have(-1000)
	if n := f.most(); n != 400 {
		t.Errorf("room for %d channels when 200 clients have left", n)
	}
	channels(334)
	f = files{}
	for range 1_000_000 {
		if !f.channel() || !f.client(5) {
			t.Fatal("there is a limit where there is none")
		}
	}
}
