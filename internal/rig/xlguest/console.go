package xlguest

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/xenchan/xenchan/xen"
)

// console is a guest's primary console, through the terminal that xenconsoled
// made for it. The guest's side of the conversation is in the rig's
// initramfs/guest.sh.
type console struct {
	tty  *os.File
	done chan struct{} // closed when the reader has ended
	err  error         // why; set before done is closed

	asking sync.Mutex // held during exec

	mu      sync.Mutex
	shown   strings.Builder // guarded by mu
	changed chan struct{}   // closed and made anew at each change, guarded by mu
}

// requests is how many there were: a late answer to one on an earlier console is that
// of no other.
var requests atomic.Int64

// openConsole begins to read; close ends it.
func openConsole(dom xen.DomID) (*console, error) {
	tty, err := OpenTTY(dom)
	if err != nil {
		return nil, err
	}
	c := &console{tty: tty, done: make(chan struct{}), changed: make(chan struct{})}
	go c.read()
	return c, nil
}

// OpenTTY opens the terminal that xenconsoled makes for a domain, as soon as it is there.
func OpenTTY(dom xen.DomID) (*os.File, error) {
	node := "/local/domain/" + dom.String() + "/console/tty"
	var path string
	for end := time.Now().Add(Patience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		out, err := exec.Command("xenstore-read", node).Output()
		if path = strings.TrimSpace(string(out)); err == nil && path != "" {
			break
		}
		path = ""
	}
	if path == "" {
		return nil, fmt.Errorf("%s stays empty", node)
	}
	return os.OpenFile(path, os.O_RDWR, 0)
}

// read ends when the terminal does, or is closed.
func (c *console) read() {
	defer close(c.done)
	buf := make([]byte, 4096)
	for {
		n, err := c.tty.Read(buf)
		c.mu.Lock()
		c.shown.Write(buf[:n])
		close(c.changed)
		c.changed = make(chan struct{})
		c.mu.Unlock()
		if err != nil {
			c.err = err
			return
		}
	}
}

func (c *console) close() {
	c.tty.Close()
	<-c.done
}

func (c *console) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.shown.String()
}

// wait looks at all that was shown, each time that there is more, until found
// says that it is enough.
func (c *console) wait(ctx context.Context, found func(all string) (string, bool)) (string, error) {
	for {
		c.mu.Lock()
		all, changed := c.shown.String(), c.changed
		c.mu.Unlock()
		if s, ok := found(all); ok {
			return s, nil
		}
		select {
		case <-changed:
		case <-c.done:
			return "", fmt.Errorf("the console ended: %w", c.err)
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// nudge sends an empty line from time to time, until it is called off. The guest ignores
// it, but it is an event: an answer was once seen to come only with the next request.
func (c *console) nudge() (callOff func()) {
	tick := time.NewTicker(5 * time.Second)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-tick.C:
				_, _ = c.tty.WriteString("\n") // who waits sees when the terminal has ended
			case <-done:
				tick.Stop()
				return
			}
		}
	}()
	return func() {
		close(done)
		<-ended
	}
}

// exec sends one request and waits for its answer.
func (c *console) exec(ctx context.Context, script string) (string, int, error) {
	c.asking.Lock()
	defer c.asking.Unlock()
	id := fmt.Sprintf("x%d-%d", os.Getpid(), requests.Add(1))
	request := id + " " + base64.StdEncoding.EncodeToString([]byte(script)) + "\n"
	if _, err := c.tty.WriteString(request); err != nil {
		return "", 0, err
	}
	defer c.nudge()()
	answer, err := c.wait(ctx, func(all string) (string, bool) {
		_, rest, _ := strings.Cut(all, "begin "+id+"\n")
		answer, end, ok := strings.Cut(rest, "\nend "+id+" ")
		status, _, ended := strings.Cut(end, "\n")
		return status + "\n" + answer, ok && ended
	})
	if err != nil {
		return "", 0, fmt.Errorf("guest did not answer: %w", err)
	}
	line, output, _ := strings.Cut(answer, "\n")
	status, err := strconv.Atoi(line)
	return output, status, err
}
