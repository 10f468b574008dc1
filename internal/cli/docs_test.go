package cli

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The examples of docs/*.md are run, page by page, on an embedded host with one
// running guest, "web", that has no channels, and a daemon. To have a page's
// examples run, write them as on a real host in fenced blocks:
//
//	```console
//	$ xenchan attach web connection=socket,name=org.example.agent.0 --wait
//	/run/xenchan/web/org.example.agent.0.sock
//	$ xenchan detach web nosuch   # exit status 3
//	xenchan: no such channel: …
//	guest$ echo hello >/dev/xen-channel/org.example.agent.0
//	```
//
// A line with "$ " is a command for bash, one shell for the whole page, and one
// with "guest$ " is as if typed in the guest "web" ("guest:NAME$ " in another).
// The lines below are all that it prints, stdout and stderr; "…" stands for
// anything, on a line of its own for any lines, and blanks are blanks however many.
// The exit status is 0 unless a comment says another. A command that ends with &
// runs on; see to it that the page ends it.
//
// /run/xenchan is the host's run directory, /etc/xenchan/channels.d and firewall.d those
// of its drop-in files, /dev/xen-channel the guest's, also for xenchan-guest,
// /var/lib/cloud in a guest is cloud in the current directory, and the
// current directory is empty but for the files of the page: a block whose info
// string has a second word, as in
//
//	```ini web.cfg
//
// is that file from there on. Blocks of other languages are not looked at.
func TestDocs(t *testing.T) {
	requirePrograms(t)
	pages, err := filepath.Glob(repoPath("docs/*.md"))
	if err != nil || len(pages) == 0 {
		t.Fatalf("no pages: %v", err)
	}
	ran := 0
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		blocks, err := parseDocs(string(text))
		if err != nil {
			t.Errorf("%s: %v", page, err)
		}
		if len(blocks) == 0 {
			continue
		}
		ran++
		t.Run(filepath.Base(page), func(t *testing.T) { runDocs(t, page, blocks) })
	}
	if ran < 2 {
		t.Errorf("only %d pages have examples", ran)
	}
}

// Every command that people see is shown at work on some page.
func TestDocs_everyCommand(t *testing.T) {
	pages, err := filepath.Glob(repoPath("docs/*.md"))
	if err != nil {
		t.Fatal(err)
	}
	shown := make(map[string]bool)
	uses := regexp.MustCompile(`xenchan ([a-z]+)`)
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		blocks, err := parseDocs(string(text))
		if err != nil {
			t.Errorf("%s: %v", page, err)
		}
		for _, b := range blocks {
			for _, m := range uses.FindAllStringSubmatch(b.command, -1) {
				shown[m[1]] = true
			}
		}
	}
	for _, name := range commandNames((&app{}).root()) {
		if !shown[name] && name != "help" {
			t.Errorf("no page of docs shows xenchan %s", name)
		}
	}
}

// A docBlock is a file, or a command and what it prints.
type docBlock struct {
	line          int
	file, content string

	command, guest string
	status         int
	output         []string
}

var (
	docPrompt = regexp.MustCompile(`^(?:guest(:[\w.-]+)?)?\$ (.*)$`)
	docStatus = regexp.MustCompile(`\s+# exit status (\d+)$`)
)

func parseDocs(text string) (blocks []docBlock, err error) {
	var in string // the language of the block that this line is in
	for i, line := range strings.Split(text, "\n") {
		last := len(blocks) - 1
		fence, isFence := strings.CutPrefix(line, "```")
		prompt := docPrompt.FindStringSubmatch(line)
		switch {
		case isFence && in != "":
			in = ""
		case isFence:
			words := strings.Fields(fence + " text")
			if in = words[0]; len(words) > 2 {
				in = "file"
				blocks = append(blocks, docBlock{line: i + 1, file: words[1]})
			}
		case in == "file":
			blocks[last].content += line + "\n"
		case in == "console" && prompt != nil:
			b := docBlock{line: i + 1, command: prompt[2]}
			if strings.HasPrefix(line, "guest") {
				b.guest = strings.TrimPrefix(prompt[1]+":web", ":")
				b.guest, _, _ = strings.Cut(b.guest, ":")
			}
			if m := docStatus.FindStringSubmatch(b.command); m != nil {
				b.status, _ = strconv.Atoi(m[1])
				b.command = strings.TrimSuffix(b.command, m[0])
			}
			blocks = append(blocks, b)
		case in == "console" && (last < 0 || blocks[last].command == ""):
			err = fmt.Errorf("line %d: %q is printed by no command", i+1, line)
		case in == "console":
			blocks[last].output = append(blocks[last].output, line)
		}
	}
	if in != "" {
		err = fmt.Errorf("a block is never closed")
	}
	return blocks, err
}

func runDocs(t *testing.T, page string, blocks []docBlock) {
	dir, err := os.MkdirTemp("/tmp", "xc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	host, work := filepath.Join(dir, "h"), filepath.Join(dir, "work")
	write := func(path, content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(work, 0o755); err != nil {
		t.Fatal(err)
	}
	write(filepath.Join(dir, "web.cfg"), "name = \"web\"\n")
	cmd, err := startHost(host, os.Environ(), filepath.Join(dir, "web.cfg"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stopHost(cmd, host, syscall.SIGTERM); err != nil {
			t.Errorf("%s leaves its host unwell: %v", page, err)
		}
	})
	sh := startShell(t, work, "XENCHAN_HOST=sim:"+host, "XENSTORED_PATH="+filepath.Join(host, "xenstored.sock"),
		"XENCHAN_DIR="+filepath.Join(host, "guests/web/xen-channel"))
	for _, b := range blocks {
		if b.file != "" {
			write(filepath.Join(work, b.file), b.content)
			continue
		}
		command := strings.NewReplacer("/run/xenchan", filepath.Join(host, "run"), xenChannelsDir, filepath.Join(host, "channels.d"), xenFirewallDir, filepath.Join(host, "firewall.d")).Replace(b.command)
		if b.guest != "" {
			links := filepath.Join(host, "guests", b.guest, "xen-channel")
			command = "XENCHAN_DIR=" + links + "; " + strings.NewReplacer("/dev/xen-channel", links, "/var/lib/cloud", filepath.Join(work, "cloud")).Replace(command)
		}
		out, status := sh.run(t, command)
		out = strings.NewReplacer(filepath.Join(host, "guests/web/xen-channel"), "/dev/xen-channel", filepath.Join(host, "run"), "/run/xenchan", filepath.Join(host, "channels.d"), xenChannelsDir, filepath.Join(host, "firewall.d"), xenFirewallDir).Replace(out)
		if status != b.status {
			t.Fatalf("%s:%d: exit status %d, the page says %d: %s\n%s", page, b.line, status, b.status, b.command, out)
		}
		if !docMatches(b.output, out) {
			t.Fatalf("%s:%d: %s\nprints\n%s\nwhere the page has\n%s", page, b.line, b.command, out, strings.Join(b.output, "\n"))
		}
	}
}

// docMatches compares what was printed with what a page has.
func docMatches(want []string, got string) bool {
	var pattern strings.Builder
	for _, line := range want {
		if strings.TrimSpace(line) == "…" {
			pattern.WriteString("(?:.*\n)*")
			continue
		}
		line = regexp.QuoteMeta(strings.Join(strings.Fields(line), " "))
		pattern.WriteString(strings.ReplaceAll(line, "…", ".*") + "\n")
	}
	var norm strings.Builder
	for line := range strings.Lines(got) {
		norm.WriteString(strings.Join(strings.Fields(line), " ") + "\n")
	}
	return regexp.MustCompile("^(?:" + pattern.String() + ")$").MatchString(norm.String())
}

// shell is a bash that is given one command after the other.
type shell struct {
	in  io.Writer
	out *bufio.Reader
	cmd *exec.Cmd
}

const docMark = "\x02end of command "

func startShell(t *testing.T, dir string, env ...string) *shell {
	t.Helper()
	cmd := exec.Command("bash")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, theirs, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = theirs, theirs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
		out.Close()
	})
	return &shell{in: in, out: bufio.NewReader(out), cmd: cmd}
}

// run runs a command to its end and returns what was printed meanwhile.
func (s *shell) run(t *testing.T, command string) (out string, status int) {
	t.Helper()
	watchdog := time.AfterFunc(time.Minute, func() { syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL) })
	defer watchdog.Stop()
	fmt.Fprintf(s.in, "eval %s </dev/null\nprintf '%s%%d\\n' $?\n", shellQuote(command), docMark)
	var all strings.Builder
	for {
		line, err := s.out.ReadString('\n')
		before, mark, ok := strings.Cut(line, docMark)
		all.WriteString(before)
		if ok {
			status, _ = strconv.Atoi(strings.TrimSpace(mark))
			return all.String(), status
		}
		if err != nil {
			t.Fatalf("the shell is gone or was too slow (%v), in %s\n%s", err, command, all.String())
		}
	}
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// What the checker is to find wrong, it does.
func TestDocs_checker(t *testing.T) {
	for _, c := range []struct {
		want string
		got  string
		ok   bool
	}{
		{"", "", true},
		{"a  b", "a b\n", true},
		{"a … b", "a 17 b\n", true},
		{"a\n…\nz", "a\nb\nc\nz\n", true},
		{"a\n…\nz", "a\nz\n", true},
		{"", "a\n", false},
		{"a", "", false},
		{"a", "ab\n", false},
		{"a.", "ab\n", false},
		{"a\nb", "a\n", false},
	} {
		var want []string
		if c.want != "" {
			want = strings.Split(c.want, "\n")
		}
		if got := docMatches(want, c.got); got != c.ok {
			t.Errorf("%q for %q: %v", c.got, c.want, got)
		}
	}
	blocks, err := parseDocs("x\n```console\n$ one   # exit status 3\nout\nguest$ two\nguest:db$ three\n```\n```ini a.cfg\nname\n```\n```sh\n$ not run\n```\n")
	want := "[{3   one  3 [out]} {5   two web 0 []} {6   three db 0 []} {8 a.cfg name\n   0 []}]"
	if got := fmt.Sprint(blocks); got != want || err != nil {
		t.Errorf("%v %v", got, err)
	}
	for _, bad := range []string{"```console\nout\n```\n", "```console\n$ true\n"} {
		if _, err := parseDocs(bad); err == nil {
			t.Errorf("nothing is wrong with %q", bad)
		}
	}
}
