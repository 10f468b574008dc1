package mdata

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Any line: refused, or a frame whose line means the same.
func FuzzParse(f *testing.F) {
	for _, line := range []string{cloudInitAsks, cloudInitGets, cloudInitPuts, "V2 0 0 ", "V2 9 00000000 0 GET AA=="} {
		f.Add([]byte(strings.TrimSuffix(line, "\n")))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		got, err := parse(line)
		if err != nil {
			if got.id != "" {
				t.Errorf("%v, and %+v", err, got)
			}
			return
		}
		again, err := parse(bytes.TrimSuffix(got.appendTo(nil), []byte("\n")))
		if diff := cmp.Diff(got, again, cmp.AllowUnexported(frame{})); err != nil || diff != "" {
			t.Errorf("%v %s", err, diff)
		}
	})
}

// Any bytes of a guest: the server answers in whole lines of which none would be
// answered in turn, and the next program in the guest is served.
func FuzzServer(f *testing.F) {
	f.Add([]byte("\nNEGOTIATE V2\n" + cloudInitAsks + cloudInitPuts))
	f.Add([]byte("login: \r\n\xff\x00V2 25 2d1cdae0"))
	f.Add([]byte("V2_OK\ninvalid command\nFAILURE\n" + cloudInitGets))
	f.Fuzz(func(t *testing.T, garbage []byte) {
		conn := &tape{Reader: bytes.NewReader(garbage)}
		if err := (&Server{Source: shelf{"sdc:uuid": "u"}}).Serve(conn); err != nil {
			t.Fatal(err)
		}
		said := conn.String()
		if said != "" && !strings.HasSuffix(said, "\n") {
			t.Errorf("%q is no whole line", said)
		}
		echo := &tape{Reader: strings.NewReader(said)}
		if err := (&Server{Source: shelf{}}).Serve(echo); err != nil || echo.Len() > 0 {
			t.Errorf("the answers %q are answered: %q, %v", said, echo.String(), err)
		}
		theirs, ours := net.Pipe()
		go (&Server{Source: shelf{"sdc:uuid": "u"}}).Serve(struct {
			io.Reader
			io.Writer
		}{io.MultiReader(bytes.NewReader(garbage), theirs), theirs})
		c := NewClient(ours)
		if got, found, err := c.Get(t.Context(), "sdc:uuid"); err != nil || !found || string(got) != "u" {
			t.Errorf("the next one gets %q, %v, %v", got, found, err)
		}
		c.Close()
		ours.Close()
		theirs.Close()
	})
}
