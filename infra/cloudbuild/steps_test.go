package cloudbuild

import (
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"cloud.google.com/go/cloudbuild/apiv1/v2/cloudbuildpb"
	"github.com/stretchr/testify/require"

	"claudepool/function"
	"claudepool/infra/snapshot"
)

const digest = "sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"

// machine runs steps as their file states them. What reaches the cloud or a container engine is a stand-in that writes
// down how it was called.
type machine struct {
	t         *testing.T
	workspace string
	bin       string
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{t: t, workspace: t.TempDir(), bin: t.TempDir()}
	require.NoError(t, os.Mkdir(filepath.Join(m.workspace, "terraform"), 0o755))
	for _, image := range []string{"front", "pool"} {
		m.write(image+".digest", digest+"\n")
	}
	m.stand("sleep", "")
	return m
}

// stand puts a stand-in in a program's place. The script has the call in $*.
func (m *machine) stand(name, script string) {
	m.t.Helper()
	text := fmt.Sprintf("#!/bin/sh\necho \"%s $*\" >>%s/calls\n%s\n", name, m.bin, script)
	require.NoError(m.t, os.WriteFile(filepath.Join(m.bin, name), []byte(text), 0o755))
}

// calls are what the stand-ins were called with, in order.
func (m *machine) calls() []string {
	m.t.Helper()
	text, err := os.ReadFile(filepath.Join(m.bin, "calls"))
	if os.IsNotExist(err) {
		return nil
	}
	require.NoError(m.t, err)
	all := strings.Split(strings.TrimSpace(string(text)), "\n")
	return slices.DeleteFunc(all, func(call string) bool { return strings.HasPrefix(call, "sleep ") })
}

func (m *machine) write(name, text string) {
	m.t.Helper()
	require.NoError(m.t, os.WriteFile(filepath.Join(m.workspace, name), []byte(text), 0o644))
}

func (m *machine) read(name string) string {
	m.t.Helper()
	text, err := os.ReadFile(filepath.Join(m.workspace, name))
	require.NoError(m.t, err)
	return string(text)
}

// run runs a step with Cloud Build's substitutions carried out, of which some may be given as name, value.
func (m *machine) run(file, id string, given ...string) (output string, err error) {
	m.t.Helper()
	build, _ := read(m.t, file)
	values := map[string]string{"PROJECT_ID": "p", "BUILD_ID": "b", "COMMIT_SHA": "c"}
	for name := range pinned(m.t) {
		values[name] = "example.com/" + strings.ToLower(name) + "@" + digest
	}
	maps.Copy(values, build.Substitutions)
	for i := 0; i < len(given); i += 2 {
		values[given[i]] = given[i+1]
	}
	substituted := func(text string) string {
		text = reference.ReplaceAllStringFunc(text, func(found string) string {
			if found == "$$" {
				return "$"
			}
			value, known := values[strings.Trim(found, "${}")]
			require.True(m.t, known, found)
			return value
		})
		return strings.ReplaceAll(text, "/workspace", m.workspace)
	}
	at := slices.IndexFunc(build.Steps, func(s *cloudbuildpb.BuildStep) bool { return s.Id == id })
	require.NotEqual(m.t, -1, at, id)
	step := build.Steps[at]
	command := append(shell(step), substituted(step.Args[len(step.Args)-1]))
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Dir = filepath.Join(m.workspace, step.Dir)
	cmd.Env = []string{"PATH=" + m.bin + ":/usr/bin:/bin"}
	for _, setting := range build.Options.Env {
		cmd.Env = append(cmd.Env, substituted(setting))
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestSteps_ABuildLeavesTheDigestOfWhatItPushed(t *testing.T) {
	for _, image := range []string{"front", "pool"} {
		m := newMachine(t)
		m.stand("docker", `case "$*" in "image inspect"*) for r in elsewhere/`+image+`@sha256:0 `+
			`us-central1-docker.pkg.dev/p/claudepool/`+image+`@`+digest+`; do echo $r; done;; esac`)
		out, err := m.run(imaging, "build-"+image)
		require.NoError(t, err, out)
		calls := m.calls()
		require.Len(t, calls, 4)
		tag := "us-central1-docker.pkg.dev/p/claudepool/" + image + ":b"
		require.Contains(t, calls[1], "--file=infra/docker/"+image+".Dockerfile --build-arg=REVISION=c --tag="+tag)
		require.Contains(t, calls[0], " --driver-opt=image=example.com/_buildkit@"+digest)
		require.Contains(t, calls[1], " --build-arg=GOLANG=example.com/_golang@"+digest+" ")
		require.Contains(t, calls[1], " --build-arg=BASE=example.com/"+map[string]string{"front": "_static",
			"pool": "_debian"}[image]+"@"+digest+" ")
		require.Contains(t, calls[1], "--build-arg=SOURCE_DATE_EPOCH=0 --output=type=docker,rewrite-timestamp=true")
		require.Equal(t, "docker push "+tag, calls[2], "as Cloud Build does, which writes provenance for what it gets")
		require.Regexp(t, "^docker image inspect .* "+tag+"$", calls[3])
		require.Equal(t, digest+"\n", m.read(image+".digest"))

		m = newMachine(t)
		m.stand("docker", `case "$*" in "buildx build"*) exit 1;; esac`)
		_, err = m.run(imaging, "build-"+image)
		require.Error(t, err)
		require.Len(t, m.calls(), 2, "nothing goes on after a build that failed")

		m = newMachine(t)
		m.stand("docker", "")
		_, err = m.run(imaging, "build-"+image)
		require.Error(t, err, "without a digest there is nothing to deploy")
	}
}

func TestSteps_ARefusedPackageIsReplacedByTheNextBuild(t *testing.T) {
	m := newMachine(t)
	m.stand("docker", `echo us-central1-docker.pkg.dev/p/claudepool/pool@`+digest)
	out, err := m.run(imaging, "build-pool")
	require.NoError(t, err, out)
	require.Contains(t, m.calls()[1], " --no-cache-filter=image ")
	dockerfile, err := os.ReadFile("../docker/pool.Dockerfile")
	require.NoError(t, err)
	require.Regexp(t, `FROM \$\{BASE\} AS image\n(?:#.*\n)*RUN apt-get update`, string(dockerfile))
}

func TestSteps_TheScanStopsAtACriticalFlawThatHasAFix(t *testing.T) {
	for found, stops := range map[string]bool{
		"":                          false,
		`HIGH\tTrue\nMEDIUM\tFalse`: false,
		`CRITICAL\tFalse`:           false,
		`CRITICAL\tTrue`:            true,
		`LOW\tTrue\nCRITICAL\tTrue\nMINIMAL\tTrue`: true,
	} {
		m := newMachine(t)
		m.stand("gcloud", `case "$*" in *" list-vulnerabilities "*) printf '`+found+`\n';; *) echo scans/1;; esac`)
		m.stand("apt-get", "")
		out, err := m.run(imaging, "scan")
		require.Equal(t, stops, err != nil, "%s: %s", found, out)
		require.Contains(t, m.calls()[1], " google-cloud-cli-local-extract", "gcloud's scan asks for it, remote or not")
		require.Contains(t, m.calls()[2], "images scan us-central1-docker.pkg.dev/p/claudepool/front@"+digest)
		if !stops {
			require.Len(t, m.calls(), 6)
			require.Contains(t, m.calls()[4], "/pool@"+digest)
		}
	}
}

func TestSteps_AScanThatCannotBeMadeStopsTheBuild(t *testing.T) {
	for _, fails := range []string{"install", "images scan", "list-vulnerabilities"} {
		m := newMachine(t)
		for _, program := range []string{"apt-get", "gcloud"} {
			m.stand(program, `case "$*" in *"`+fails+`"*) exit 1;; esac`)
		}
		_, err := m.run(imaging, "scan")
		require.Error(t, err, fails)
	}
}

// passing has the builds that the deploying one waits for: what `gcloud builds list` says of each, try after try.
func passing(m *machine, tests, images []string) {
	said := func(account string, tries []string) string {
		path := filepath.Join(m.workspace, account)
		for i, builds := range tries {
			m.write(fmt.Sprintf("%s.%d", account, i), builds)
		}
		return fmt.Sprintf(`*claudepool-%s@*) n=$(cat %[2]s 2>/dev/null || echo 0); cat %[2]s.$n; [ $n = %[3]d ] || echo `+
			`$((n+1)) >%[2]s;;`, account, path, len(tries)-1)
	}
	m.stand("gcloud", `case "$*" in `+said("test", tests)+" "+said("images", images)+`
"builds describe i "*) printf 'us-central1-docker.pkg.dev/p/claudepool/front:b1\t`+digest+
		`\nus-central1-docker.pkg.dev/p/claudepool/pool:b1\t`+digest+`\n';; esac`)
}

const running, failed, succeeded = "WORKING\ti\n", "FAILURE\ti\n", "SUCCESS\ti\n"

func TestSteps_TheImagesThatPassedAreDeployedAndNoOthers(t *testing.T) {
	for name, c := range map[string]struct {
		tests, images []string
		passes        bool
	}{
		"both":               {[]string{succeeded}, []string{succeeded}, true},
		"both, in a while":   {[]string{"", "QUEUED\tj\n", running, succeeded}, []string{"", running, succeeded}, true},
		"at the second time": {[]string{running + failed, succeeded + failed}, []string{succeeded}, true},
		"no tests":           {[]string{running, failed}, []string{succeeded}, false},
		"no images":          {[]string{succeeded}, []string{"CANCELLED\ti\n" + failed}, false},
		"too slow tests":     {[]string{"TIMEOUT\ti\n"}, []string{succeeded}, false},
	} {
		m := newMachine(t)
		passing(m, c.tests, c.images)
		out, err := m.run(deploying, "passed")
		require.Equal(t, c.passes, err == nil, "%s: %s", name, out)
		require.Contains(t, m.calls()[0], " --filter=substitutions.COMMIT_SHA=c AND "+
			"serviceAccount=projects/p/serviceAccounts/claudepool-test@p.iam.gserviceaccount.com ")
		images := filepath.Join(m.workspace, "terraform/images.auto.tfvars.json")
		if !c.passes {
			require.NoFileExists(t, images, name)
			continue
		}
		const repository = "us-central1-docker.pkg.dev/p/claudepool"
		require.JSONEq(t, `{"front_image": "`+repository+`/front@`+digest+`", "pool_image": `+
			`"`+repository+`/pool@`+digest+`"}`, m.read("terraform/images.auto.tfvars.json"))
	}
}

func TestSteps_WhatWasPlannedIsApplied(t *testing.T) {
	m := newMachine(t)
	m.stand("terraform", `case "$*" in "output -raw url") echo https://front.example;; esac`)
	for _, step := range []string{"plan", "deploy"} {
		out, err := m.run(deploying, step, "_STATE_BUCKET", "states")
		require.NoError(t, err, out)
	}
	require.Equal(t, []string{
		"terraform init -input=false -backend-config=bucket=states -backend-config=prefix=claudepool",
		"terraform plan -input=false -lock-timeout=10m -out=" + m.workspace + "/plan",
		"terraform apply -input=false -lock-timeout=10m " + m.workspace + "/plan",
		"terraform output -raw url",
		"terraform output -raw certificate",
	}, m.calls())
	require.Equal(t, "https://front.example\n", m.read("url"))
	require.Empty(t, m.read("certificate"))
}

func TestSteps_APullRequestPlansWithoutLockAndSecretsAndWithWhatRuns(t *testing.T) {
	m := newMachine(t)
	m.stand("terraform", `case "$*" in "output -json images") echo '{"front_image": "f"}';; esac`)
	out, err := m.run(deploying, "plan", "_STATE_BUCKET", "states", "_DEPLOY", "false")
	require.NoError(t, err, out)
	require.Contains(t, m.calls()[2], " -lock=false -refresh=false ")
	require.JSONEq(t, `{"front_image": "f"}`, m.read("terraform/images.auto.tfvars.json"))
}

func TestSteps_APullRequestChangesNothing(t *testing.T) {
	m := newMachine(t)
	m.stand("terraform", "")
	m.stand("gcloud", "")
	m.stand("curl", "")
	for _, step := range []string{"passed", "tls", "deploy", "smoke"} {
		out, err := m.run(deploying, step, "_DEPLOY", "false")
		require.NoError(t, err, out)
	}
	require.Empty(t, m.calls())
}

func TestSteps_NothingBelowTLS12ComesIn(t *testing.T) {
	for there, does := range map[string]string{"": "update", "exit 1": "create"} {
		m := newMachine(t)
		m.stand("gcloud", `case "$*" in *describe*) `+there+`;; esac`)
		out, err := m.run(deploying, "tls")
		require.NoError(t, err, out)
		require.Equal(t, "gcloud compute ssl-policies "+does+" claudepool --global --project=p --profile=MODERN "+
			"--min-tls-version=1.2", m.calls()[1])
	}
	balancer, err := os.ReadFile("../../terraform/domain.tf")
	require.NoError(t, err)
	require.Contains(t, string(balancer), `"projects/${var.project}/global/sslPolicies/${var.name}"`)
}

// The Go of the step's image, whichever it is, fetches the one of go.mod, and takes what the checksum database knows
// only.
func TestSteps_GoComesThroughTheModuleProxy(t *testing.T) {
	m := newMachine(t)
	m.stand("apt-get", "")
	require.NoError(t, os.Mkdir(filepath.Join(m.workspace, ".ci"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(m.workspace, ".ci/run"), []byte("#!/bin/sh\nenv\n"), 0o755))
	out, err := m.run(tests, "test")
	require.NoError(t, err, out)
	for _, setting := range []string{"GOTOOLCHAIN=auto", "GOPROXY=https://proxy.golang.org", "GOSUMDB=sum.golang.org"} {
		require.Contains(t, strings.Split(out, "\n"), setting)
	}
	require.Regexp(t, `(?m)^PATH=.*:`+regexp.QuoteMeta(m.workspace)+`/\.tools/go/bin$`, out)
	text, err := os.ReadFile("../../go.mod")
	require.NoError(t, err)
	require.Regexp(t, `(?m)^toolchain go1\.\d+\.\d+$`, string(text))
	for _, image := range []string{"front", "pool"} {
		text, err := os.ReadFile("../docker/" + image + ".Dockerfile")
		require.NoError(t, err)
		require.Contains(t, string(text), "ENV CGO_ENABLED=0 GOTOOLCHAIN=auto\n")
	}
}

// TestSteps_SmokeAsksTheFront has the front itself behind what lets in only those with an identity, as Cloud Run does.
func TestSteps_SmokeAsksTheFront(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	front := function.New(function.Options{Logger: quiet, Client: function.NewClient(),
		View: snapshot.NewView(snapshot.NewMemory(), quiet)})
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer identity" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		asked = append(asked, r.URL.Path)
		front.ServeHTTP(w, r)
	}))
	defer server.Close()
	m := newMachine(t)
	m.write("url", server.URL)
	m.write("certificate", "")
	m.stand("gcloud", "echo identity")
	out, err := m.run(deploying, "smoke")
	require.NoError(t, err, out)
	require.Equal(t, []string{"/health", "/"}, asked)
	require.Contains(t, out, `"status": "ok"`)
	require.Equal(t, []string{"gcloud auth print-identity-token --audiences=" + server.URL}, m.calls())
}

func TestSteps_SmokeLeavesADomainAloneUntilItsCertificateIsThere(t *testing.T) {
	for status, calls := range map[string]bool{"PROVISIONING": false, "FAILED_NOT_VISIBLE": false, "ACTIVE": true} {
		m := newMachine(t)
		m.write("url", "https://claude.example.com")
		m.write("certificate", "claudepool-front-1")
		m.stand("gcloud", `case "$*" in *ssl-certificates*) echo `+status+`;; *) echo identity;; esac`)
		m.stand("curl", "")
		out, err := m.run(deploying, "smoke")
		require.NoError(t, err, out)
		require.Contains(t, m.calls()[0], "ssl-certificates describe claudepool-front-1 --global")
		if !calls {
			require.Len(t, m.calls(), 1)
			require.Contains(t, out, "the certificate is "+status)
			continue
		}
		require.Len(t, m.calls(), 4)
		require.Contains(t, m.calls()[3], "Bearer identity https://claude.example.com/")
	}
}
