package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// cloudInit is Debian's cloud-init, unpacked. Installed, it would configure the
// machine that the tests run on.
func cloudInit(t *testing.T) string {
	t.Helper()
	root := repoPath(".cache/cloud-init")
	if _, err := os.Stat(filepath.Join(root, "usr/bin/cloud-init")); err != nil {
		t.Fatalf("this test needs cloud-init, and what it needs of Python: make deps (%v)", err)
	}
	return root
}

// found is what a data source of cloud-init says.
type found struct {
	Found      bool           `json:"found"`
	InstanceID string         `json:"instance_id"`
	Hostname   string         `json:"hostname"`
	Keys       []string       `json:"keys"`
	UserData   string         `json:"user_data"`
	VendorData string         `json:"vendor_data"`
	Network    map[string]any `json:"network"`
	List       []string       `json:"list"`
	Deleted    string         `json:"delete"`
	Put        string         `json:"put"`
}

// guestRoot is the root directory of a guest whose firmware has that product name.
func guestRoot(t *testing.T, product string) string {
	t.Helper()
	root := t.TempDir()
	for path, text := range map[string]string{
		"sys/class/dmi/id/product_name": product + "\n", "etc/cloud/cloud.cfg.d/README": "", "proc/cmdline": "quiet\n", "proc/1/environ": "", "proc/1/cmdline": "", "proc/uptime": "1 1\n",
		"var/lib/cloud/seed/README": "", "run/README": "",
	} {
		writeFile(t, filepath.Join(root, path), text)
	}
	return root
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// dataSource runs a data source of cloud-init in a guest.
func dataSource(t *testing.T, root, source, config string) found {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	file := filepath.Join(root, "etc/cloud/cloud.cfg.d/90_xenchan.cfg")
	writeFile(t, file, config)
	cmd := exec.CommandContext(ctx, "/usr/bin/python3", "testdata/cloudinit.py", filepath.Join(cloudInit(t), "usr/lib/python3/dist-packages"), root, source, file)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("cloud-init: %v\n%s", err, &stderr)
	}
	var f found
	if err := json.Unmarshal(out, &f); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return f
}

// startServe starts `config serve web` and returns when it serves. end waits for its
// end and returns what it has printed.
func startServe(t *testing.T, dir string, args ...string) (end func() string) {
	t.Helper()
	cmd := exec.Command("xenchan", append([]string{"config", "serve", "web", "--host", "sim:" + dir, "--timeout", "1m"}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	r := bufio.NewReader(pipe)
	if line, err := r.ReadString('\n'); err != nil || !strings.Contains(line, "serving") {
		t.Fatalf("config serve: %q, %v\n%s", line, err, &stderr)
	}
	return func() string {
		t.Helper()
		var rest strings.Builder
		r.WriteTo(&rest)
		if err := cmd.Wait(); err != nil {
			t.Errorf("config serve: %v\n%s%s", err, &rest, &stderr)
		}
		return rest.String()
	}
}

const cloudInitUserData = "#cloud-config\nruncmd:\n- [ xenchan-guest, config, done ]\n# \u00e9\n"

// Debian's cloud-init, as it is, finds its host by what the firmware says and is
// configured by `config serve`, over a socket and over a terminal.
func TestCloudInit_smartOS(t *testing.T) {
	requirePrograms(t)
	dir := newHost(t, "name = \"web\"\nchannel = [ \"connection=socket,name=org.xenchan.config.0\", \"connection=pty,name=org.example.tty.0\" ]\n")
	files := t.TempDir()
	writeFile(t, filepath.Join(files, "user"), cloudInitUserData)
	writeFile(t, filepath.Join(files, "meta"), "instance-id: i-0815\npublic-keys:\n- ssh-ed25519 AAAA alice\n- ssh-ed25519 BBBB bob\n")
	writeFile(t, filepath.Join(files, "nics"), `[{"interface":"eth0","mac":"00:16:3e:00:00:01","ips":["192.0.2.7/24"],"gateways":["192.0.2.1"],"primary":true}]`)
	for _, channel := range []string{"org.xenchan.config.0", "org.example.tty.0"} {
		t.Run(channel, func(t *testing.T) {
			end := startServe(t, dir, "--channel", channel, "--user-data", filepath.Join(files, "user"),
				"--meta-data", filepath.Join(files, "meta"), "--key", "sdc:nics="+filepath.Join(files, "nics"))
			config := strings.ReplaceAll(pageFile(t, "docs/config.md", "90_xenchan.cfg"), "/dev/xen-channel/org.xenchan.config.0", filepath.Join(dir, "guests/web/xen-channel", channel))
			got := dataSource(t, guestRoot(t, "SmartDC HVM"), "SmartOS", config)
			if !strings.Contains(got.VendorData, "boothook") {
				t.Errorf("cloud-init has no vendor-data of its own: %q", got.VendorData)
			}
			got.VendorData = ""
			want := found{
				Found: true, InstanceID: "i-0815", Hostname: "web",
				Keys: []string{"ssh-ed25519 AAAA alice", "ssh-ed25519 BBBB bob"}, UserData: cloudInitUserData,
				Network: map[string]any{"version": 1.0, "config": []any{map[string]any{
					"type": "physical", "name": "eth0", "mac_address": "00:16:3e:00:00:01",
					"subnets": []any{map[string]any{"type": "static", "address": "192.0.2.7/24", "gateway": "192.0.2.1"}},
				}}},
				List:    []string{"cloud-init:user-data", "hostname", "meta-data", "root_authorized_keys", "user-data"},
				Deleted: "", Put: "OK",
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("cloud-init has found (-want +got):\n%s", diff)
			}
			if log := end(); !strings.Contains(log, "configured") {
				t.Errorf("config serve prints\n%s", log)
			}
		})
	}
}

// Where the firmware says nothing, xenchan-guest makes a seed, which cloud-init takes.
func TestCloudInit_seed(t *testing.T) {
	requirePrograms(t)
	dir := newHost(t, "name = \"web\"\nuuid = \"2f1a7a38-3c54-4b5c-a6d1-6f4f9a1f0a6e\"\nchannel = [ \"connection=socket,name=org.xenchan.config.0\" ]\n")
	files, root := t.TempDir(), guestRoot(t, "HVM domU")
	writeFile(t, filepath.Join(files, "user"), cloudInitUserData)
	writeFile(t, filepath.Join(files, "net"), "version: 1\nconfig: []\n")
	writeFile(t, filepath.Join(files, "vendor"), "#cloud-config\n{}\n")
	end := startServe(t, dir, "--user-data", filepath.Join(files, "user"), "--network-config", filepath.Join(files, "net"), "--vendor-data", filepath.Join(files, "vendor"))
	fetch := exec.Command("xenchan-guest", "config", "fetch", "--timeout", "30s", "--to", filepath.Join(root, "var/lib/cloud/seed/nocloud"))
	fetch.Env = append(os.Environ(), "XENCHAN_DIR="+filepath.Join(dir, "guests/web/xen-channel"))
	if out, err := fetch.CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("config fetch: %v\n%s", err, out)
	}
	got := dataSource(t, root, "NoCloud", "datasource: { NoCloud: { fs_label: null } }\n")
	want := found{
		Found: true, InstanceID: "2f1a7a38-3c54-4b5c-a6d1-6f4f9a1f0a6e", Hostname: "web", Keys: []string{},
		UserData: cloudInitUserData, VendorData: "#cloud-config\n{}\n", Network: map[string]any{"version": 1.0, "config": []any{}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("cloud-init has found (-want +got):\n%s", diff)
	}
	done := exec.Command("xenchan-guest", "config", "done", "--timeout", "30s")
	done.Env = fetch.Env
	if out, err := done.CombinedOutput(); err != nil {
		t.Fatalf("config done: %v\n%s", err, out)
	}
	end()
	xenchan(t, dir, "wait", "web", "--for", "configured")
}

// What our pages say about how cloud-init finds out where it runs is what its own
// ds-identify finds.
func TestCloudInit_detection(t *testing.T) {
	smartOS, seed := pageFile(t, "docs/config.md", "90_xenchan.cfg"), pageFile(t, "docs/first-boot.md", "90_xenchan.cfg")
	for _, c := range []struct{ product, config, want string }{
		{"SmartDC HVM", "", "SmartOS"},
		{"HVM domU", "", ""},
		{"HVM domU", smartOS, "SmartOS"}, // and then it finds nothing: see below
		{"SmartDC HVM", smartOS, "SmartOS"},
		{"HVM domU", seed, "NoCloud"},
		{"", seed, "NoCloud"}, // no firmware, as in PV and PVH
	} {
		root := guestRoot(t, c.product)
		bin := t.TempDir() // the machine that the tests run on may be a container
		writeFile(t, filepath.Join(bin, "systemd-detect-virt"), "#!/bin/sh\necho xen\n")
		if err := os.Chmod(filepath.Join(bin, "systemd-detect-virt"), 0o755); err != nil {
			t.Fatal(err)
		}
		if c.product == "" {
			os.RemoveAll(filepath.Join(root, "sys/class/dmi"))
		}
		writeFile(t, filepath.Join(root, "etc/cloud/cloud.cfg.d/90_xenchan.cfg"), c.config)
		cmd := exec.Command("sh", filepath.Join(cloudInit(t), "usr/lib/cloud-init/ds-identify"), "--force")
		cmd.Env = append(os.Environ(), "PATH_ROOT="+root, "DI_LOG=stderr", "PATH="+bin+":"+os.Getenv("PATH"))
		log, err := cmd.CombinedOutput()
		result, _ := os.ReadFile(filepath.Join(root, "run/cloud-init/cloud.cfg"))
		if !strings.Contains(string(result), c.want) || (err == nil) != (c.want != "") {
			t.Errorf("product %q, configuration %q: %q, %v, want %q\n%s", c.product, c.config, result, err, c.want, log)
		}
	}
	if got := dataSource(t, guestRoot(t, "HVM domU"), "SmartOS", smartOS); got.Found {
		t.Errorf("cloud-init takes any firmware for SmartOS's: %+v", got)
	}
}

// pageFile is a file that a page of docs has.
func pageFile(t *testing.T, page, name string) string {
	t.Helper()
	text, err := os.ReadFile(repoPath(page))
	if err != nil {
		t.Fatal(err)
	}
	blocks, err := parseDocs(string(text))
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blocks {
		if b.file == name {
			return b.content
		}
	}
	t.Fatalf("%s has no file %s", page, name)
	return ""
}
