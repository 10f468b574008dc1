package standin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// maxMessage bounds one message of a client, in bytes; libxl accepts as much.
const maxMessage = 1 << 20

// qmp answers in QMP: what libxl asks of a device model in the life of a domain that
// has none of QEMU's devices.
type qmp struct {
	// chardevs answers query-chardev.
	chardevs func() []chardevInfo
	// quit is called when a client asks the device model to end.
	quit func()
}

// chardevInfo is one row of query-chardev.
type chardevInfo struct {
	Label        string `json:"label"`
	Filename     string `json:"filename"`
	FrontendOpen bool   `json:"frontend-open"`
}

// greeting is what QEMU says first. Libxl reads the version to know what it may
// ask for; with this one it asks for nothing that is newer than Xen 4.17.
const greeting = `{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": "xenchan"}, "capabilities": []}}` + "\r\n"

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

// talk is the conversation with one client, which has got the greeting.
type talk struct {
	*qmp
	heard      []byte // and not answered yet
	negotiated bool
}

// hear takes what a client sends, and returns the answers to it, all in one piece. With
// over there is no more to say to it.
func (t *talk) hear(more []byte) (answers []byte, over bool) {
	if t.heard = append(t.heard, more...); len(t.heard) > maxMessage {
		return nil, true
	}
	d := json.NewDecoder(bytes.NewReader(t.heard))
	done := int64(0)
	for ; ; done = d.InputOffset() {
		var c command
		switch err := d.Decode(&c); {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			t.heard = t.heard[done:]
			return answers, false
		case err != nil:
			return line(answers, reply{Error: &refusal{"GenericError", "Invalid JSON syntax"}}), true
		}
		r := t.answer(c, &t.negotiated)
		r.ID = c.ID
		answers = line(answers, r)
		if c.Execute == "quit" && r.Error == nil {
			t.quit()
		}
	}
}

// line appends a reply.
func line(to []byte, r reply) []byte {
	text, err := json.Marshal(r)
	if err != nil { // an id that is no JSON has not been decoded
		text = []byte("{}")
	}
	return append(append(to, text...), '\r', '\n')
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
