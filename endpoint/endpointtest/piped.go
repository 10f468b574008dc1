package endpointtest

import (
	"context"
	"testing"

	"github.com/xenchan/xenchan/endpoint"
	"github.com/xenchan/xenchan/internal/sys"
)

// throughPipes is a harness whose clients are read and written through pipes.
func (h Harness) throughPipes() Harness {
	plain := h.New
	h.New = func(t *testing.T) endpoint.Endpoint { return pipedEndpoint{plain(t), t} }
	return h
}

type pipedEndpoint struct {
	endpoint.Endpoint
	t *testing.T
}

func (e pipedEndpoint) Accept(ctx context.Context) (endpoint.Client, error) {
	c, err := e.Endpoint.Accept(ctx)
	if err != nil {
		return nil, err
	}
	p := pipedClient{Client: c}
	for _, pipe := range []**sys.Pipe{&p.in, &p.out} {
		if *pipe, err = sys.NewPipe(); err != nil {
			e.t.Fatal(err)
		}
	}
	return p, nil
}

type pipedClient struct {
	endpoint.Client
	in, out *sys.Pipe
}

func (c pipedClient) Read(p []byte) (int, error) {
	if n, err := c.ReadInto(c.in, len(p)); n == 0 {
		return 0, err
	}
	return c.in.Read(p)
}

func (c pipedClient) Write(p []byte) (done int, err error) {
	for done < len(p) {
		loaded, err := c.out.Write(p[done:])
		if err != nil { // Close has closed the pipe too: what does the client say?
			_, err := c.WriteFrom(c.out)
			return done, err
		}
		for loaded > 0 {
			n, err := c.WriteFrom(c.out)
			done += n
			loaded -= n
			if err != nil {
				return done, err
			}
		}
	}
	return done, nil
}

func (c pipedClient) Close() error {
	err := c.Client.Close()
	c.in.Close()
	c.out.Close()
	return err
}
