package daemon

import (
	"fmt"
	"io"
	"net"
	"testing"
)

// A device may come before the device model listens for more than its answer.
func TestStandIn_lateAtOnce(t *testing.T) {
	s := standIns{}
	s.put(3, nil)
	s.need(3, "beside x\n")
	ours, theirs := net.Pipe()
	heard := make(chan string, 1)
	go func() {
		all, err := io.ReadAll(theirs)
		heard <- fmt.Sprint(string(all), err)
	}()
	s.put(3, ours)
	if got := <-heard; got != "beside x\n<nil>" || s.has(3) {
		t.Errorf("%q, kept %v", got, s.has(3))
	}
}
