package simguest

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/console"
	"github.com/xenchan/xenchan/endpoint"
	"github.com/xenchan/xenchan/endpoint/pty"
	helper "github.com/xenchan/xenchan/guest"
)

const (
	outBurst = 256 // hvc_console's output buffer, bytes
	inBurst  = 16  // what hvc_console reads from the driver at a time, bytes
	spin     = 20 * time.Microsecond
)

// terminal is one /dev/hvcN: a pseudo-terminal under the channel's name, whose
// other side is the driver. Four goroutines at most, joined by close.
type terminal struct {
	guest *guest
	link  string
	dir   string // of its frontend
	ep    endpoint.Endpoint
	conn  *console.Conn
	stop  context.CancelFunc
	wg    sync.WaitGroup
	says  chan channel.GuestState // capacity 1: who has it, not published yet
}

func (g *guest) openTerminal(link, dir string, conn *console.Conn) (*terminal, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ttys == channel.MaxChannels {
		return nil, errors.New("all terminals of the hvc driver are in use")
	}
	ep, err := pty.Open(pty.Config{Line: pty.Cooked})
	if err != nil {
		return nil, err
	}
	// Made under another name first: a program that waits for the name finds it whole.
	temp := filepath.Join(filepath.Dir(link), "."+filepath.Base(link))
	os.Remove(temp)
	if err := errors.Join(os.Symlink(ep.Path(), temp), os.Rename(temp, link)); err != nil {
		return nil, errors.Join(err, ep.Close())
	}
	ctx, stop := context.WithCancel(context.Background())
	t := &terminal{guest: g, link: link, dir: dir, ep: ep, conn: conn, stop: stop, says: make(chan channel.GuestState, 1)}
	g.ttys++
	t.wg.Go(func() { t.run(ctx) })
	t.wg.Go(func() { t.publish(ctx) })
	return t, nil
}

// close hangs the terminal up: programs that hold it read the end of it.
func (t *terminal) close() {
	t.stop()
	t.conn.HangUp()
	os.Remove(t.link)
	t.ep.Close()
	t.wg.Wait()
	t.guest.mu.Lock()
	defer t.guest.mu.Unlock()
	t.guest.ttys--
}

// run serves the terminal each time somebody opens it.
func (t *terminal) run(ctx context.Context) {
	for ctx.Err() == nil {
		t.say(channel.GuestClosed)
		tty, err := t.ep.Accept(ctx)
		if err != nil {
			return
		}
		t.say(channel.GuestOpen)
		t.conn.SetReadDeadline(time.Time{})
		var wg sync.WaitGroup
		wg.Go(func() { t.input(tty) })
		stop := context.AfterFunc(ctx, func() { tty.Close() })
		t.output(ctx, tty)
		t.conn.SetReadDeadline(time.Unix(1, 0)) // nobody has it open: stop reading
		tty.Close()
		wg.Wait()
		stop()
	}
}

// say has the host told who has the terminal, as xenchan-guest does.
func (t *terminal) say(state channel.GuestState) {
	select {
	case <-t.says: // it was too slow for that
	default:
	}
	t.says <- state
}

// publish tells the host what is said, and holds up nothing else.
func (t *terminal) publish(ctx context.Context) {
	for {
		select {
		case state := <-t.says:
			if err := helper.Publish(ctx, t.guest.Store, t.dir, state); err != nil && ctx.Err() == nil {
				t.guest.Log.Warn("the host does not learn who has the terminal", "path", t.link, "error", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// output takes what programs write to the terminal to the ring.
func (t *terminal) output(ctx context.Context, tty io.Reader) {
	buf := make([]byte, outBurst)
	for {
		n, err := tty.Read(buf)
		if !t.spin(ctx, buf[:n]) || err != nil {
			return
		}
	}
}

// spin writes all of p, and holds the guest's only processor until it has.
func (t *terminal) spin(ctx context.Context, p []byte) bool {
	t.guest.vcpu.Lock()
	defer t.guest.vcpu.Unlock()
	for {
		n, err := t.conn.TryWrite(p)
		p = p[n:]
		switch {
		case err != nil || ctx.Err() != nil:
			return false
		case len(p) == 0:
			return true
		}
		time.Sleep(spin) // where Linux spins on the processor, SCHEDOP_yield
	}
}

// input takes what is in the ring to the programs that have the terminal open.
func (t *terminal) input(tty io.Writer) {
	buf := make([]byte, 8*inBurst)
	for {
		n, err := t.conn.Read(buf)
		if n > 0 {
			if _, err := tty.Write(buf[:n]); err != nil {
				return
			}
			t.guest.interrupt()
		}
		if err != nil {
			return
		}
	}
}

// interrupt waits for a processor that is not spinning.
func (g *guest) interrupt() {
	g.vcpu.Lock()
	defer g.vcpu.Unlock()
}
