package guest

import (
	"bytes"
	"crypto/rand"
	"io"
	"os"
	"syscall"
	"testing"
	"time"
)

// What a program says is taken while the channel takes nothing, and gets there as it
// was said.
func TestPTY_hearsAhead(t *testing.T) {
	k := newKernel(t)
	k.plug(1, name(1))
	defer k.hold()()
	k.agree(name)
	conn, err := Open(t.Context(), k.links, name(1))
	k.check(err)
	p, err := NewPTY(conn)
	k.check(err)
	program, err := os.OpenFile(p.Path, os.O_RDWR|syscall.O_NOCTTY|syscall.O_NONBLOCK, 0)
	k.check(err)
	defer program.Close()
	k.check(program.SetDeadline(time.Now().Add(time.Minute)))
	said := make([]byte, 90_000)
	rand.Read(said)
	if n, err := program.Write(said); err != nil {
		t.Fatalf("%d bytes of %d are taken: %v", n, len(said), err)
	}
	got := make([]byte, len(said))
	if _, err := io.ReadFull(k.host(1), got); err != nil || !bytes.Equal(got, said) {
		t.Errorf("other bytes came, %v", err)
	}
	k.check(second(io.WriteString(k.host(1), "answer\n")))
	if n, err := program.Read(got); string(got[:n]) != "answer\n" || err != nil {
		t.Errorf("the program reads %q, %v", got[:n], err)
	}
	k.check(second(program.Write(said))) // nobody reads, and it ends all the same
	k.check(p.Close())
	if <-p.Done() == nil {
		t.Error("nothing says that it has ended")
	}
}
