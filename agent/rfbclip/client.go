package rfbclip

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// Client is the guest's end. It is not safe for concurrent use, but that Send may be
// called beside Next.
type Client struct {
	r reader
	w io.Writer
	// said is what of a server's handshake was read already.
	said int
}

// NewClient makes the guest's end of a channel.
func NewClient(rw io.ReadWriter) *Client {
	return &Client{reader{r: bufio.NewReader(rw), begins: serverBegins}, rw, 0}
}

// Next waits for what the host does next: it greets, which each new program on the host
// does, or gives a text, which is not empty. What is neither is skipped up to the next
// greeting.
func (c *Client) Next() (text string, greeted bool, err error) {
	for {
		if greeted = c.said > 0; greeted {
			err = c.greet()
		} else {
			text, err = c.message()
		}
		switch {
		case errors.Is(err, errHandshake):
			c.said = len(serverBegins)
		case errors.Is(err, errOutOfStep):
			n, err := c.r.find([]byte(version), serverBegins)
			if err != nil {
				return "", false, err
			}
			c.said = n
		case err != nil || greeted || text != "":
			return text, greeted, err
		}
	}
}

// greet does its part of a handshake, of which the server has said the beginning.
func (c *Client) greet() error {
	said := c.said
	c.said = 0
	if said < len(serverBegins) {
		if _, err := io.WriteString(c.w, version); err != nil {
			return err
		}
		n, err := c.r.count(1)
		if err != nil {
			return err
		}
		types, err := c.r.take(n)
		if err != nil {
			return err
		}
		if !bytes.Contains(types, []byte{noSecurity}) {
			return fmt.Errorf("%w: a server that wants a password", errOutOfStep)
		}
		if _, err := c.w.Write([]byte{noSecurity}); err != nil {
			return err
		}
		if result, err := c.r.count(4); err != nil {
			return err
		} else if result != 0 {
			return fmt.Errorf("%w: a server that refuses", errOutOfStep)
		}
		if _, err := c.w.Write([]byte{1}); err != nil {
			return err
		}
	} else if _, err := c.w.Write(clientHello); err != nil {
		return err
	}
	if err := c.r.skip(pixelFormatAndSize); err != nil {
		return err
	}
	n, err := c.r.count(4)
	if err == nil && n > maxName {
		err = fmt.Errorf("%w: a name of %d bytes", errOutOfStep, n)
	}
	if err == nil {
		err = c.r.skip(n)
	}
	return err
}

// message is a message of the server, most of which have no text.
func (c *Client) message() (text string, err error) {
	kind, err := c.r.readByte()
	if err != nil {
		return "", err
	}
	switch kind {
	case serverCutText:
		text, err = c.r.cutText()
	case bell:
	case setColourMap:
		var n int
		if err = c.r.skip(3); err == nil {
			if n, err = c.r.count(2); err == nil {
				err = c.r.skip(6 * n)
			}
		}
	default:
		err = fmt.Errorf("%w: message %d", errOutOfStep, kind)
	}
	return text, err
}

// Send gives text to the host.
func (c *Client) Send(text string) error { return writeText(c.w, clientCutText, text) }
