package daemon

import (
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/xenchan/xenchan/xenstore"
	"github.com/xenchan/xenchan/xenstore/storeserver"
)

// A device that was made anew has another terminal, which the one before does not say.
func TestKeepTTY_notInTheNextOne(t *testing.T) {
	server := storeserver.New(storeserver.Config{})
	var serving sync.WaitGroup
	here, there := net.Pipe()
	serving.Go(func() { server.ServeConn(there, 0) })
	store := xenstore.New(here)
	defer serving.Wait()
	defer server.Close()
	defer store.Close()
	ctx := t.Context()
	write := func(node, value string) {
		t.Helper()
		if err := store.Write(ctx, node, value); err != nil {
			t.Fatal(err)
		}
	}
	d := &device{daemon: &Daemon{Config: Config{Store: store}}, dir: "/b", frontend: "/f", instance: "1", log: slog.New(slog.DiscardHandler)}
	write("/b/instance", "1")
	write("/f/tty", "")
	done := make(chan struct{})
	go func() { defer close(done); d.keepTTY(ctx, "/dev/pts/1") }()
	is := func(want string) {
		t.Helper()
		for range 500 {
			if got, _ := store.Read(ctx, "/f/tty"); got == want {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatalf("the terminal is not %q", want)
	}
	is("/dev/pts/1")
	write("/f/tty", "") // offered again
	is("/dev/pts/1")
	err := store.Tx(ctx, func(tx *xenstore.Tx) error {
		if err := tx.Write(ctx, "/b/instance", "2"); err != nil {
			return err
		}
		return tx.Write(ctx, "/f/tty", "")
	})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Error("it goes on")
	}
	if got, _ := store.Read(ctx, "/f/tty"); got != "" {
		t.Errorf("the next device's terminal is %q", got)
	}
}
