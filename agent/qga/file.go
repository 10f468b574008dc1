package qga

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// ChunkSize is how many bytes of a file are asked for at a time: with less the
// round trips cost more, with more the agent's base64.
const ChunkSize = 64 << 10

// retries is how often one piece of a file is tried again after no answer.
const retries = 3

// File is an open file of a guest. The agent has a number for it until it is
// closed or the agent ends. One goroutine may use it.
type File struct {
	c      *Client
	handle int64
	pos    int64 // of the next byte, as far as we know
}

// Open opens a file in the guest; mode is one of fopen(3)'s.
func (c *Client) Open(ctx context.Context, path, mode string) (*File, error) {
	f := &File{c: c}
	err := c.Call(ctx, "guest-file-open", map[string]string{"path": path, "mode": mode}, &f.handle)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Close lets go of the file, and of what was written and cannot be stored.
func (f *File) Close(ctx context.Context) error {
	return f.c.Call(ctx, "guest-file-close", map[string]int64{"handle": f.handle}, nil)
}

// Flush makes the guest hand to its system what was written.
func (f *File) Flush(ctx context.Context) error {
	return f.c.Call(ctx, "guest-file-flush", map[string]int64{"handle": f.handle}, nil)
}

// Seek sets the position as lseek(2) does, and returns it from the file's start.
func (f *File) Seek(ctx context.Context, offset int64, whence int) (int64, error) {
	word := map[int]string{io.SeekStart: "set", io.SeekCurrent: "cur", io.SeekEnd: "end"}[whence]
	if word == "" {
		return 0, fmt.Errorf("whence %d", whence)
	}
	var at struct {
		Position int64 `json:"position"`
	}
	err := f.c.Call(ctx, "guest-file-seek", map[string]any{"handle": f.handle, "offset": offset, "whence": word}, &at)
	if err == nil {
		f.pos = at.Position
	}
	return f.pos, err
}

// Read reads up to n bytes. At the end of the file it returns none.
func (f *File) Read(ctx context.Context, n int) ([]byte, error) {
	var got struct {
		Count int    `json:"count"`
		Data  []byte `json:"buf-b64"`
	}
	err := f.again(ctx, func() error {
		return f.c.Call(ctx, "guest-file-read", map[string]any{"handle": f.handle, "count": n}, &got)
	})
	switch {
	case err != nil:
		return nil, err
	case got.Count != len(got.Data) || got.Count > n:
		return nil, fmt.Errorf("guest-file-read: the guest says %d bytes and sends %d of at most %d", got.Count, len(got.Data), n)
	}
	f.pos += int64(got.Count)
	return got.Data, nil
}

// Write writes all of p.
func (f *File) Write(ctx context.Context, p []byte) error {
	for len(p) > 0 {
		var took struct {
			Count int `json:"count"`
		}
		err := f.again(ctx, func() error {
			return f.c.Call(ctx, "guest-file-write", map[string]any{"handle": f.handle, "buf-b64": p}, &took)
		})
		switch {
		case err != nil:
			return err
		case took.Count <= 0 || took.Count > len(p):
			return fmt.Errorf("guest-file-write: the guest took %d of %d bytes", took.Count, len(p))
		}
		f.pos += int64(took.Count)
		p = p[took.Count:]
	}
	return nil
}

// again does a piece of work that moves the position, and does it again from the
// same position when there is no answer: nobody knows whether it was done.
func (f *File) again(ctx context.Context, do func() error) error {
	at := f.pos
	for try := 0; ; try++ {
		err := do()
		if !errors.Is(err, ErrNoAnswer) || ctx.Err() != nil || try == retries {
			return err
		}
		if _, err := f.Seek(ctx, at, io.SeekStart); err != nil {
			return err
		}
	}
}

// Download copies a guest's file from an offset to its end. progress, which may
// be nil, gets the position after each piece.
func (c *Client) Download(ctx context.Context, path string, to io.Writer, offset int64, progress func(int64)) error {
	f, err := c.Open(ctx, path, "rb")
	if err != nil {
		return err
	}
	defer f.Close(context.WithoutCancel(ctx))
	if offset > 0 {
		if _, err := f.Seek(ctx, offset, io.SeekStart); err != nil {
			return err
		}
	}
	for {
		p, err := f.Read(ctx, ChunkSize)
		if err != nil || len(p) == 0 {
			return err
		}
		if _, err := to.Write(p); err != nil {
			return err
		}
		if progress != nil {
			progress(f.pos)
		}
	}
}

// Upload copies what from gives into a guest's file, from an offset on. At
// offset 0 the file is made anew; further on it must be there. It ends when the
// guest's system has taken all.
func (c *Client) Upload(ctx context.Context, path string, from io.Reader, offset int64, progress func(int64)) (err error) {
	mode := "wb"
	if offset > 0 {
		mode = "r+b"
	}
	f, err := c.Open(ctx, path, mode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close(context.WithoutCancel(ctx))) }()
	if offset > 0 {
		if _, err := f.Seek(ctx, offset, io.SeekStart); err != nil {
			return err
		}
	}
	buf := make([]byte, ChunkSize)
	for {
		n, readErr := io.ReadFull(from, buf)
		if n > 0 {
			if err := f.Write(ctx, buf[:n]); err != nil {
				return err
			}
			if progress != nil {
				progress(f.pos)
			}
		}
		switch {
		case errors.Is(readErr, io.EOF), errors.Is(readErr, io.ErrUnexpectedEOF):
			return f.Flush(ctx) // a full disk is noticed here
		case readErr != nil:
			return readErr
		}
	}
}

// Size is the length of a guest's file; an error when there is none.
func (c *Client) Size(ctx context.Context, path string) (int64, error) {
	f, err := c.Open(ctx, path, "rb")
	if err != nil {
		return 0, err
	}
	defer f.Close(context.WithoutCancel(ctx))
	return f.Seek(ctx, 0, io.SeekEnd)
}
