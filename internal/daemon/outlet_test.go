package daemon

import (
	"bytes"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/xenchan/xenchan/endpoint"
	"github.com/xenchan/xenchan/internal/sys"
	"github.com/xenchan/xenchan/spool"
)

// moody is a client that often takes nothing at once. It reads into got.
type moody struct {
	endpoint.Client
	got []byte
}

func (m *moody) WriteFrom(p *sys.Pipe) (int, error) {
	time.Sleep(rand.N(50 * time.Microsecond))
	return m.take(p)
}

func (m *moody) WriteFromNow(p *sys.Pipe) (int, error) {
	if rand.IntN(3) == 0 {
		return 0, nil
	}
	return m.take(p)
}

func (m *moody) take(p *sys.Pipe) (int, error) {
	buf := make([]byte, 1+rand.IntN(3000))
	n, err := p.Read(buf)
	m.got = append(m.got, buf[:n]...)
	return n, err
}

// Whoever empties the ring and the client's sender share the way to the client: each
// byte takes it once and in order, and no byte is left because each of the two has
// relied on the other.
func TestOutlet_twoSenders(t *testing.T) {
	log, err := spool.New(1<<20, spool.Block)
	if err != nil {
		t.Fatal(err)
	}
	p := openPipes(log, nil, nil, newKeep(nil, "1-1", nil, nil))
	if err := p.ensure(); err != nil {
		t.Fatal(err)
	}
	defer p.close()
	o := &outlet{tap: tap{log, &observers{}}, pipes: p}
	client := &moody{}
	o.serve(client)
	want := make([]byte, 1<<20)
	for i := range want {
		want[i] = byte(rand.Uint32())
	}
	stop, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			more, err := o.send()
			if err != nil {
				ended <- err
				return
			}
			if !more {
				select {
				case <-log.Data():
				case <-stop:
					ended <- nil
					return
				}
			}
		}
	}()
	late := time.After(20 * time.Second)
	for rest := want; len(rest) > 0; {
		n := log.Append(rest[:min(len(rest), 1+rand.IntN(2048))], 0)
		log.Settle()
		o.Flush()
		rest = rest[n:]
		for pos := log.Positions(); pos.Spooled > 0 && (n == 0 || rand.IntN(2) == 0); pos = log.Positions() {
			select {
			case <-late:
				t.Fatalf("nobody sends: %+v", pos)
			default:
				runtime.Gosched()
			}
		}
	}
	for int(log.Positions().Delivered) < len(want) {
		select {
		case <-late:
			t.Fatalf("nobody sends: %+v", log.Positions())
		default:
			runtime.Gosched()
		}
	}
	close(stop)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(client.got, want) {
		t.Errorf("the client has got %d bytes that are not the %d sent", len(client.got), len(want))
	}
}

// deaf is a client that takes nothing at once.
type deaf struct{ endpoint.Client }

func (deaf) WriteFromNow(*sys.Pipe) (int, error) { return 0, nil }

// What Flush does not send, the sender hears of, also when it is on its way to wait.
func TestOutlet_leavesTheRest(t *testing.T) {
	for name, client := range map[string]endpoint.Client{
		"no client": nil, "a client that does not read": deaf{}, "the sender is at it": &moody{}, "a firewall looks at it first": &filtered{},
	} {
		log, err := spool.New(1<<20, spool.Block)
		if err != nil {
			t.Fatal(err)
		}
		p := openPipes(log, nil, nil, newKeep(nil, "1-1", nil, nil))
		if err := p.ensure(); err != nil {
			t.Fatal(err)
		}
		defer p.close()
		o := &outlet{tap: tap{log, &observers{}}, pipes: p, client: client}
		if _, ok := client.(*moody); ok {
			o.mu.Lock()
		}
		log.Append([]byte("x"), 0)
		o.Flush()
		select {
		case <-log.Data():
		default:
			t.Errorf("%s: a byte is left, and the sender does not hear of it", name)
		}
	}
}
