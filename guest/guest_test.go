package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func name(devid int) string { return fmt.Sprintf("org.example.%d", devid) }

func TestHold_followsTheKernel(t *testing.T) {
	for _, old := range []bool{false, true} {
		t.Run(fmt.Sprintf("neverReuse=%v", old), func(t *testing.T) {
			k := newKernel(t)
			k.neverReuse = old
			for devid := range 4 {
				k.plug(devid+1, name(devid+1))
			}
			stop := k.hold()
			k.agree(name)
			k.unplug(2)
			k.agree(name)
			k.plug(5, name(5))
			k.agree(name)
			k.unplug(1)
			k.agree(name)
			if !old {
				k.plug(6, name(6))
				k.plug(7, name(7))
				k.agree(name)
				k.unplug(3)
				k.restore() // 4 goes to 3's place, and so on
				k.agree(name)
			}
			for _, a := range aliases {
				if _, err := os.Stat(filepath.Join(k.dev, a, name(5))); err != nil {
					t.Error(err)
				}
			}
			stop()
			if left := k.linked(); len(left) > 0 {
				t.Errorf("nobody would put these links right: %v", left)
			}
			// The next holder knows what is no longer to be seen.
			stop = k.hold()
			k.agree(name)
			stop()
		})
	}
}

// What comes between two looks is told apart, also where both orders end with the same
// consoles and the same terminals.
func TestHold_seesNothingOfWhatHappens(t *testing.T) {
	for what, happens := range map[string]func(k *kernel){
		"unplug, restore":           func(k *kernel) { k.unplugged(1); k.resume() },
		"restore, unplug":           func(k *kernel) { k.resume(); k.unplugged(1) },
		"unplug, plug":              func(k *kernel) { k.unplugged(1); k.plugged(4); k.plugged(5) },
		"plug, unplug, plug":        func(k *kernel) { k.plugged(4); k.unplugged(1); k.plugged(5) },
		"unplug, plug, restore":     func(k *kernel) { k.unplugged(1); k.plugged(4); k.resume() },
		"unplug, restore, plug":     func(k *kernel) { k.unplugged(1); k.resume(); k.plugged(4) },
		"the same devid, elsewhere": func(k *kernel) { k.unplugged(1); k.plugged(4); k.plugged(1) },
		"other terminals, again":    func(k *kernel) { k.unplugged(1); k.resume(); k.plugged(1); k.resume() },
	} {
		t.Run(what, func(t *testing.T) {
			k := newKernel(t)
			for devid := range 3 {
				k.plug(devid+1, name(devid+1))
			}
			stop := k.hold()
			k.agree(name)
			k.atOnce(func() { happens(k) })
			k.agree(name)
			stop()
		})
		t.Run(what+" without a holder", func(t *testing.T) {
			k := newKernel(t)
			for devid := range 3 {
				k.plug(devid+1, name(devid+1))
			}
			stop := k.hold()
			k.agree(name)
			stop()
			k.atOnce(func() { happens(k) })
			defer k.hold()()
			k.agree(name)
		})
	}
}

// A program that keeps a terminal open which has hung up gets no channel's bytes, and
// no channel gets that terminal, before it lets go.
func TestHold_refusesWhatAProgramHasOpen(t *testing.T) {
	k := newKernel(t)
	k.plug(1, name(1))
	k.plug(2, name(2))
	program := startProgram(t, "sleep", "1000", filepath.Join(k.dev, "hvc2"))
	defer k.hold()()
	only := func(want string) {
		t.Helper()
		eventually(t, func() error {
			if got := k.linked(); len(got) != 1 || got[want] == "" {
				return fmt.Errorf("%v", got)
			}
			return nil
		})
	}
	only(name(1))
	eventually(t, func() error {
		if log := k.log.String(); !strings.Contains(log, "is open in a program, and may be what was left when it hung up") {
			return errors.New("nothing says why a channel has no link")
		}
		return nil
	})
	k.unplug(1)
	k.plug(3, name(3))
	only(name(3))
	program()
	k.agree(name)
}

// A program that opens a terminal in the moment in which the holder does may be who has
// given an interrupt its handler: the channel waits until it has gone.
func TestHold_refusesWhatAProgramJustOpens(t *testing.T) {
	k := newKernel(t)
	k.plug(1, name(1))
	k.plug(2, name(2))
	started := make(chan func(), 1)
	k.opened = func(p *pty) {
		if p.devid == 2 {
			k.opened = nil
			started <- startProgram(t, "sleep", "1000", p.path)
		}
	}
	defer k.hold()()
	program := <-started
	eventually(t, func() error {
		if got := k.linked(); len(got) != 1 || got[name(1)] == "" || !strings.Contains(k.log.String(), "is open in a program") {
			return fmt.Errorf("links: %v", got)
		}
		return nil
	})
	program()
	k.agree(name)
}

// A holder that knows nothing of an earlier life finds the terminals that are there,
// and takes them in the order in which the consoles came.
func TestHold_findsByOpening(t *testing.T) {
	k := newKernel(t)
	for devid := range 4 {
		k.plug(devid+1, name(devid+1))
	}
	k.unplug(1)
	k.unplug(3)
	defer k.hold()()
	k.agree(name)
}

// The kernel does not see channels that come only after the guest was restored, and
// leaves their terminals to programs that nobody answers.
func TestHold_revivesWhatTheKernelHasLost(t *testing.T) {
	k := newKernel(t)
	for devid := range 5 {
		k.plug(devid+1, name(devid+1))
	}
	k.unplug(2)
	defer k.hold()()
	k.agree(name)
	conn, err := Open(t.Context(), k.links, name(4))
	k.check(err)
	defer conn.Close()

	k.restoreWithout(func() {}, 3, 4) // 1 keeps its terminal, 5 gets that of 2
	eventually(t, func() error {      // no program can write to what nobody reads
		if got := k.truth(name); len(got) != 2 {
			return fmt.Errorf("terminals are left: %v", got)
		}
		return nil
	})
	k.agree(name)

	k.serve(4)
	k.nodes(4, name(4), "1") // comes again, and the kernel does not look
	k.plug(6, name(6))       // a new one, at which it does
	eventually(t, func() error {
		if got := k.truth(name); len(got) != 4 {
			return fmt.Errorf("terminals: %v", got)
		}
		return nil
	})
	k.agree(name)
	k.check(second(io.WriteString(conn, "x\n")))
	got := make([]byte, 2)
	if _, err := io.ReadFull(k.host(4), got); string(got) != "x\n" || err != nil {
		t.Errorf("the host reads %q, %v", got, err)
	}

	// Nodes that are there before the holder has looked: letting go says Closed there.
	k.restoreWithout(func() {
		k.serve(1)
		k.nodes(1, name(1), "1")
	}, 1)
	eventually(t, func() error {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.devices[1] != 2 {
			return errors.New("the driver has not looked again")
		}
		return nil
	})
	k.agree(name)
}

// Linux closes the event channel that has the number of a lost console's, whose it may be.
func TestHold_revivesWhatWasRobbed(t *testing.T) {
	k := newKernel(t)
	for devid := range 3 {
		k.plug(devid+1, name(devid+1))
	}
	defer k.hold()()
	k.agree(name)
	k.restoreWithout(func() {
		k.plugged(6)
		k.serve(6)
		k.robbed = 6
	}, 2)
	eventually(t, func() error {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.devices[6] != 2 {
			return errors.New("the driver has not looked again")
		}
		return nil
	})
	k.agree(name)
}

// A terminal that the kernel has left to a lost console can be opened, and is not
// taken for another's.
func TestHold_deadTerminalIsNobodys(t *testing.T) {
	k := newKernel(t)
	k.neverReuse = true // so it has to be found by opening
	for devid := range 4 {
		k.plug(devid+1, name(devid+1))
	}
	k.unplug(1)
	defer k.hold()()
	k.agree(name)
	k.restoreWithout(func() {}, 3)
	k.agree(name)
	eventually(t, func() error {
		if got := k.linked(); len(got) != 2 || len(k.truth(name)) != 2 {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
	k.agree(name)
}

func TestSetup_once(t *testing.T) {
	k := newKernel(t)
	step := func() {
		t.Helper()
		k.check(Setup(t.Context(), k.config()))
		k.agree(name)
	}
	k.plug(1, name(1))
	k.plug(2, name(2))
	k.plug(3, name(3))
	step()
	k.unplug(2)
	step()
	k.unplug(1)
	step()
	k.plug(4, name(4))
	step()
	k.restore()
	step()
	defer k.hold()()
	if err := Setup(t.Context(), k.config()); !errors.Is(err, ErrHeld) {
		t.Errorf("%v beside a holder", err)
	}
}

func TestHold_rawBeforeAnybodyOpens(t *testing.T) {
	k := newKernel(t)
	k.plug(1, name(1))
	defer k.hold()()
	k.agree(name)
	host := k.host(1).(*os.File)
	_, err := host.WriteString("a\rb\x03c\n")
	k.check(err)
	conn, err := Open(t.Context(), k.links, name(1))
	k.check(err)
	defer conn.Close()
	got := make([]byte, 6)
	if _, err := io.ReadFull(conn, got); string(got) != "a\rb\x03c\n" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	_, err = conn.Write([]byte("x\n"))
	k.check(err)
	back := make([]byte, 100)
	if n, err := host.Read(back); string(back[:n]) != "x\n" || err != nil {
		t.Errorf("the host reads %q, %v: no echo may come before", back[:n], err)
	}
}

// The host learns who has a channel open, also again after a restore, and a
// program that has gone leaves the line raw.
func TestHold_tellsTheHost(t *testing.T) {
	k := newKernel(t)
	k.plug(1, name(1))
	k.plug(2, name(2))
	defer k.hold()()
	is := func(devid int, want string) {
		t.Helper()
		eventually(t, func() error {
			if got := k.use(devid); got != want {
				return fmt.Errorf("console %d is %q, want %q", devid, got, want)
			}
			return nil
		})
	}
	is(1, "closed")
	is(2, "closed")
	k.check(k.dom0.Remove(t.Context(), node(1)))
	k.nodes(1, name(1), "3") // toolstack.Announce
	is(1, "closed")
	// Our own process is the holder here; another has to open it.
	program := startProgram(t, "sh", "-c", "stty sane; read -r x", filepath.Join(k.links, name(2)))
	is(2, "open")
	is(1, "closed")
	k.restore()
	is(1, "closed")
	program()
	is(2, "closed")
	k.agree(name)
	eventually(t, func() error { return isRaw(filepath.Join(k.links, name(2))) })
	k.unplug(2)
	k.agree(name)
	if _, err := k.dom0.List(t.Context(), node(2)); err == nil {
		t.Error("the nodes of an unplugged console are there again")
	}
}

func TestHold_refusesBadNames(t *testing.T) {
	k := newKernel(t)
	bad := []string{"..", "a/b", ".hidden", "a\nb", ""}
	for i, n := range bad {
		k.plug(i+1, n)
	}
	k.plug(6, "good")
	k.plug(7, strings.Repeat("x", 256))
	defer k.hold()()
	eventually(t, func() error {
		if got := k.linked(); len(got) != 1 || got["good"] != filepath.Join(k.dev, "hvc6") {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
}

func TestConn_goesOnAfterAHangUp(t *testing.T) {
	k := newKernel(t)
	k.plug(1, name(1))
	k.plug(2, name(2))
	defer k.hold()()
	k.agree(name)
	conn, err := Open(t.Context(), k.links, name(2))
	k.check(err)
	defer conn.Close()
	k.unplug(1)
	k.unplug(2)
	k.agree(name)
	go func() {
		k.plug(3, name(2)) // at another place
	}()
	k.check(second(fmt.Fprintln(conn, "here again")))
	eventually(t, func() error {
		if len(k.linked()) != 1 {
			return errors.New("no link")
		}
		return nil
	})
	buf := make([]byte, 100)
	if n, err := k.host(3).Read(buf); string(buf[:n]) != "here again\n" || err != nil {
		t.Errorf("%q, %v", buf[:n], err)
	}
	k.check(second(io.WriteString(k.host(3), "ping")))
	if n, err := conn.Read(buf); string(buf[:n]) != "ping" || err != nil {
		t.Errorf("%q, %v", buf[:n], err)
	}
	time.AfterFunc(50*time.Millisecond, func() { conn.Close() })
	if _, err := conn.Read(buf); !errors.Is(err, context.Canceled) {
		t.Errorf("%v after Close", err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestWait_limit(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := Wait(ctx, t.TempDir(), "x"); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if _, err := Wait(ctx, t.TempDir(), "../x"); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func FuzzParseSaved(f *testing.F) {
	f.Add("terminal 1 11 3\nconsole-1 12 11 3\n")
	f.Add("")
	f.Add("terminal 9 1 1\nconsole-1 -1 900 3\n")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parseSaved(text)
		if err != nil {
			return
		}
		again, err := parseSaved(s.String())
		if err != nil || !maps.Equal(s.owners, again.owners) || !maps.Equal(s.seen, again.seen) {
			t.Errorf("%q is read as %v, and then %v, %v", text, s, again, err)
		}
	})
}
