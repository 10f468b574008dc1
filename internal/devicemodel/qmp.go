package devicemodel

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
)

// maxMessage bounds one message of a client, in bytes; libxl accepts as much.
const maxMessage = 1 << 20

// qmp serves QMP: what libxl asks of a device model in the life of a domain that
// has none of QEMU's devices.
type qmp struct {
	// chardevs answers query-chardev.
	chardevs func() []chardevInfo
	// quit is called when a client asks the device model to end, left when one has left.
	quit, left func()
	log        *slog.Logger
}

// chardevInfo is one row of query-chardev.
type chardevInfo struct {
	Label        string `json:"label"`
	Filename     string `json:"filename"`
	FrontendOpen bool   `json:"frontend-open"`
}

// greeting is what QEMU says first. Libxl reads the version to know what it may
// ask for; with this one it asks for nothing that is newer than Xen 4.17.
const greeting = `{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": "xenchan"}, "capabilities": []}}`

// serve accepts clients until the context ends, and joins what it started.
func (q *qmp) serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("QMP: %w", err)
		}
		wg.Go(func() {
			defer conn.Close()
			stop := context.AfterFunc(ctx, func() { conn.Close() })
			defer stop()
			defer q.left()
			if err := q.converse(conn); err != nil && ctx.Err() == nil {
				q.log.Warn("QMP", "error", err)
			}
		})
	}
}

// command is one message of a client. The id comes back as it is.
type command struct {
	Execute string          `json:"execute"`
	ID      json.RawMessage `json:"id,omitempty"`
}

type reply struct {
	Return any             `json:"return,omitempty"`
	Error  *refusal        `json:"error,omitempty"`
	ID     json.RawMessage `json:"id,omitempty"`
}

type refusal struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

// converse talks with one client until it leaves.
func (q *qmp) converse(conn io.ReadWriter) error {
	if _, err := io.WriteString(conn, greeting+"\r\n"); err != nil {
		return err
	}
	// The limit is for one message; it is raised when one has been read.
	limited := &io.LimitedReader{R: bufio.NewReader(conn), N: maxMessage}
	negotiated := false
	for d := json.NewDecoder(limited); ; limited.N = maxMessage {
		var c command
		switch err := d.Decode(&c); {
		case errors.Is(err, io.EOF) && limited.N > 0:
			return nil
		case limited.N <= 0:
			return fmt.Errorf("a message of more than %d bytes", maxMessage)
		case err != nil:
			return q.send(conn, reply{Error: &refusal{"GenericError", "Invalid JSON syntax"}})
		}
		r := q.answer(c, &negotiated)
		r.ID = c.ID
		if err := q.send(conn, r); err != nil {
			return err
		}
		if c.Execute == "quit" && r.Error == nil {
			q.quit()
		}
	}
}

func (q *qmp) send(w io.Writer, r reply) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, err = w.Write(append(text, '\r', '\n'))
	return err
}

func (q *qmp) answer(c command, negotiated *bool) reply {
	if c.Execute == "qmp_capabilities" && !*negotiated {
		*negotiated = true
		return reply{Return: struct{}{}}
	}
	if !*negotiated {
		return refuse("Expecting capabilities negotiation with 'qmp_capabilities'")
	}
	switch c.Execute {
	case "query-chardev":
		return reply{Return: q.chardevs()}
	case "query-status":
		return reply{Return: map[string]any{"status": "running", "running": true, "singlestep": false}}
	case "query-version":
		return reply{Return: map[string]any{"qemu": map[string]int{"major": 7, "minor": 2, "micro": 0}, "package": "xenchan"}}
	case "query-command-line-options", "query-block", "query-blockstats":
		return reply{Return: []struct{}{}} // we have none
	case "query-commands":
		var all []map[string]string
		for _, name := range commands {
			all = append(all, map[string]string{"name": name})
		}
		return reply{Return: all}
	case "quit", "stop", "cont":
		return reply{Return: struct{}{}}
	}
	return refuse(fmt.Sprintf("The command %s has not been found", c.Execute))
}

// commands are those that are answered.
var commands = []string{
	"qmp_capabilities", "query-chardev", "query-status", "query-version", "query-command-line-options",
	"query-block", "query-blockstats", "query-commands", "quit", "stop", "cont",
}

func refuse(why string) reply { return reply{Error: &refusal{"CommandNotFound", why}} }
