package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"time"

	"github.com/xenchan/xenchan/internal/sim"
)

// A program in a guest does what its client asks for in a header: one byte that says
// what, and two numbers, a size in bytes and a count.
const (
	doEcho  = 'e' // count times: read size bytes, write them back
	doSend  = 's' // count times: write size bytes
	doDrain = 'd' // read size × count bytes, then write their checksum
	header  = 9
)

func request(what byte, size, count int) []byte {
	b := []byte{what}
	b = binary.BigEndian.AppendUint32(b, uint32(size))
	return binary.BigEndian.AppendUint32(b, uint32(count))
}

// agent serves a connection until it ends.
func agent(c io.ReadWriter) error {
	var head [header]byte
	for {
		if _, err := io.ReadFull(c, head[:]); err != nil {
			return err
		}
		size, count := int(binary.BigEndian.Uint32(head[1:])), int(binary.BigEndian.Uint32(head[5:]))
		var err error
		switch head[0] {
		case doEcho:
			err = echo(c, size, count)
		case doSend:
			p := payload(size)
			for range count {
				if _, err = c.Write(p); err != nil {
					break
				}
			}
		case doDrain:
			var sum uint32
			if sum, err = drain(c, size*count); err == nil {
				_, err = c.Write(binary.BigEndian.AppendUint32(nil, sum))
			}
		default:
			return fmt.Errorf("a client asks for %q", head[0])
		}
		if err != nil {
			return err
		}
	}
}

func echo(c io.ReadWriter, size, count int) error {
	buf := make([]byte, size)
	for range count {
		if _, err := io.ReadFull(c, buf); err != nil {
			return err
		}
		if _, err := c.Write(buf); err != nil {
			return err
		}
	}
	return nil
}

// drain reads n bytes and returns their checksum.
func drain(r io.Reader, n int) (uint32, error) {
	h := crc32.NewIEEE()
	_, err := io.CopyN(h, bufio.NewReaderSize(r, 64<<10), int64(n))
	return h.Sum32(), err
}

func payload(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7)
	}
	return b
}

// sum is the checksum of count payloads.
func sum(size, count int) uint32 {
	h := crc32.NewIEEE()
	p := payload(size)
	for range count {
		h.Write(p)
	}
	return h.Sum32()
}

// patience is how long a transfer may take before it counts as stuck.
const patience = 2 * time.Minute

// fromGuest has the guest send, and returns how long that took.
func fromGuest(c net.Conn, size, count int) (time.Duration, error) {
	want := sum(size, count)
	_ = c.SetDeadline(time.Now().Add(patience))
	defer c.SetDeadline(time.Time{})
	begin := time.Now()
	if _, err := c.Write(request(doSend, size, count)); err != nil {
		return 0, err
	}
	got, err := drain(c, size*count)
	took := time.Since(begin)
	if err == nil && got != want {
		err = fmt.Errorf("checksum of %d bytes from the guest is %08x, want %08x", size*count, got, want)
	}
	return took, err
}

// toGuest sends to the guest, and returns how long it took until that had all.
func toGuest(c net.Conn, size, count int) (time.Duration, error) {
	want, p := sum(size, count), payload(size)
	_ = c.SetDeadline(time.Now().Add(patience))
	defer c.SetDeadline(time.Time{})
	begin := time.Now()
	if _, err := c.Write(request(doDrain, size, count)); err != nil {
		return 0, err
	}
	for range count {
		if _, err := c.Write(p); err != nil {
			return 0, err
		}
	}
	var answer [4]byte
	_, err := io.ReadFull(c, answer[:])
	took := time.Since(begin)
	if got := binary.BigEndian.Uint32(answer[:]); err == nil && got != want {
		err = fmt.Errorf("checksum of %d bytes at the guest is %08x, want %08x", size*count, got, want)
	}
	return took, err
}

// trips makes round trips, and returns how long each took.
func trips(c net.Conn, size, count int, pause func(i int)) ([]time.Duration, error) {
	if _, err := c.Write(request(doEcho, size, count)); err != nil {
		return nil, err
	}
	p, buf := payload(size), make([]byte, size)
	took := make([]time.Duration, 0, count)
	for i := range count {
		if pause != nil {
			pause(i)
		}
		begin := time.Now()
		if _, err := c.Write(p); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			return nil, err
		}
		took = append(took, time.Since(begin))
	}
	return took, nil
}

// playAgent is the program behind the relay.
func playAgent(ctx context.Context, path string) error {
	if err := sim.WaitFile(ctx, path); err != nil {
		return err
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := agent(c); err != io.EOF {
		return err
	}
	return nil
}
