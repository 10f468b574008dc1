package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/xenchan/xenchan/agent/qga"
)

func (g *guestAgent) copyCommand() *cobra.Command {
	var resume, quiet bool
	cmd := &cobra.Command{
		Use:   "cp SOURCE TARGET",
		Short: "copy a file into the guest or out of it",
		Long: `Cp copies one file. The one of SOURCE and TARGET that is in the guest begins with
a colon. A TARGET that ends with a slash is a directory; - is standard input or
output. A copy that was broken off leaves what it has copied, and --resume goes on
with it, once it has seen that the end of what is there is the same on both sides.`,
		Example: `  xenchan agent web cp ./site.conf :/etc/nginx/conf.d/
  xenchan agent web cp :/var/log/syslog .
  xenchan agent web cp :/etc/os-release -
  xenchan agent web cp --resume image.iso :/srv/image.iso`,
		Args: args(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			job := copyJob{guestAgent: g, resume: resume}
			if f, ok := g.stderr.(*os.File); ok && !quiet && term.IsTerminal(int(f.Fd())) {
				job.tell = f
			}
			from, fromGuest := strings.CutPrefix(args[0], ":")
			to, toGuest := strings.CutPrefix(args[1], ":")
			if fromGuest == toGuest {
				return usagef("one of %q and %q must be in the guest, and begin with a colon, as :/etc/motd", args[0], args[1])
			}
			if resume && (from == "-" || to == "-") {
				return usagef("--resume needs files: standard input and output cannot go back")
			}
			return g.with(cmd.Context(), func(c *qga.Client) error {
				job.c = c
				if fromGuest {
					return job.download(cmd.Context(), from, to)
				}
				return job.upload(cmd.Context(), from, to)
			})
		},
	}
	cmd.Flags().BoolVar(&resume, "resume", false, "go on with a copy that was broken off")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "show no progress on a terminal")
	return cmd
}

// copyJob is one copy.
type copyJob struct {
	*guestAgent
	c      *qga.Client
	resume bool
	tell   io.Writer // where progress is shown; nil is nowhere
	at     int64     // what has been copied
}

func (j *copyJob) upload(ctx context.Context, from, to string) error {
	if strings.HasSuffix(to, "/") {
		if from == "-" {
			return usagef("%s is a directory: name the file", to)
		}
		to += filepath.Base(from)
	}
	if from == "-" {
		return j.ended(j.c.Upload(ctx, to, j.stdin, 0, j.progress(-1)))
	}
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.IsDir() {
		return fmt.Errorf("%s is a directory: cp copies files (pack it with tar first)", from)
	}
	if j.resume {
		if j.at, err = j.c.Size(ctx, to); err != nil {
			return fmt.Errorf("--resume: %w", err)
		}
		if err := j.sameEnd(ctx, f, to, info.Size()); err != nil {
			return err
		}
		if _, err := f.Seek(j.at, io.SeekStart); err != nil {
			return err
		}
	}
	return j.ended(j.c.Upload(ctx, to, f, j.at, j.progress(info.Size())))
}

func (j *copyJob) download(ctx context.Context, from, to string) (err error) {
	if to == "-" {
		return j.ended(j.c.Download(ctx, from, j.stdout, 0, nil))
	}
	if info, err := os.Stat(to); err == nil && info.IsDir() || strings.HasSuffix(to, "/") {
		to = filepath.Join(to, path.Base(from))
	}
	size, err := j.c.Size(ctx, from) // before a file is made here for nothing
	if err != nil {
		return err
	}
	mode := os.O_CREATE | os.O_RDWR
	if !j.resume {
		mode |= os.O_TRUNC
	}
	f, err := os.OpenFile(to, mode, 0o666)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
	}()
	if j.at, err = f.Seek(0, io.SeekEnd); err != nil {
		return err
	}
	if j.resume {
		if err := j.sameEnd(ctx, f, from, size); err != nil {
			return err
		}
	}
	return j.ended(j.c.Download(ctx, from, f, j.at, j.progress(size)))
}

// sameEnd refuses to go on with a copy of something else.
func (j *copyJob) sameEnd(ctx context.Context, local io.ReaderAt, remote string, size int64) error {
	if j.at > size {
		return fmt.Errorf("--resume: the copy has %d bytes and the original %d: it is not a part of it", j.at, size)
	}
	n := min(j.at, qga.ChunkSize)
	ours := make([]byte, n)
	if _, err := local.ReadAt(ours, j.at-n); err != nil {
		return err
	}
	f, err := j.c.Open(ctx, remote, "rb")
	if err != nil {
		return err
	}
	defer f.Close(context.WithoutCancel(ctx))
	if _, err := f.Seek(ctx, j.at-n, io.SeekStart); err != nil {
		return err
	}
	for theirs := []byte(nil); int64(len(theirs)) < n; {
		p, err := f.Read(ctx, int(n)-len(theirs))
		if err != nil {
			return err
		}
		theirs = append(theirs, p...)
		if len(p) == 0 || !bytes.HasPrefix(ours, theirs) {
			return fmt.Errorf("--resume: the last of the %d bytes that are there differ: it is a copy of something else", j.at)
		}
	}
	return nil
}

// progress takes note of what was copied, and shows it now and then. A size
// below 0 is not known.
func (j *copyJob) progress(size int64) func(int64) {
	var shown time.Time
	return func(at int64) {
		j.at = at
		if j.tell == nil || at != size && time.Since(shown) < 100*time.Millisecond {
			return
		}
		shown = time.Now()
		if size > 0 {
			fmt.Fprintf(j.tell, "\r%d of %d bytes, %d %%", at, size, at*100/size)
		} else {
			fmt.Fprintf(j.tell, "\r%d bytes", at)
		}
	}
}

// ended adds to an error how far the copy has come.
func (j *copyJob) ended(err error) error {
	if j.tell != nil && j.at > 0 {
		fmt.Fprintln(j.tell)
	}
	if err != nil && j.at > 0 {
		return fmt.Errorf("after %d bytes (--resume goes on from there): %w", j.at, err)
	}
	return err
}
