// Package cloudbuild has the builds that test and that make images, and checks them and the deploying one, the
// repository's cloudbuild.yaml, as far as that can be done without the cloud.
package cloudbuild

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"cloud.google.com/go/cloudbuild/apiv1/v2/cloudbuildpb"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"sigs.k8s.io/yaml"
)

// The builds' files.
const (
	deploying = "../../cloudbuild.yaml"
	tests     = "test.yaml"
	imaging   = "images.yaml"
)

var files = []string{deploying, tests, imaging}

// builtIn are the substitutions that Cloud Build makes itself and that we use.
var builtIn = []string{"PROJECT_ID", "BUILD_ID", "COMMIT_SHA"}

// read reads a file as Cloud Build does: fields it doesn't know are errors.
func read(t *testing.T, file string) (*cloudbuildpb.Build, string) {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	json, err := yaml.YAMLToJSONStrict(text)
	require.NoError(t, err)
	build := new(cloudbuildpb.Build)
	require.NoError(t, protojson.Unmarshal(json, build))
	return build, string(text)
}

var (
	comment   = regexp.MustCompile(`(?m)^\s*#.*$`)
	reference = regexp.MustCompile(`\$\$|\$\{?([A-Z_][A-Z0-9_]*)\}?`)
)

// uses are the substitutions that a file uses.
func uses(text string) []string {
	used := map[string]bool{}
	for _, m := range reference.FindAllStringSubmatch(comment.ReplaceAllString(text, ""), -1) {
		if name := m[1]; name != "" && !slices.Contains(builtIn, name) {
			used[name] = true
		}
	}
	return slices.Sorted(maps.Keys(used))
}

// An image has no default: without it there is no build.
func TestBuild_DeclaresWhatItUsesButItsImagesAndUsesWhatItDeclares(t *testing.T) {
	images := pinned(t)
	for _, file := range files {
		build, text := read(t, file)
		used := uses(text)
		for _, name := range used {
			_, declared := build.Substitutions[name]
			require.NotEqual(t, declared, images[name] != "", "%s: %s is an image or has a default", file, name)
		}
		for name := range build.Substitutions {
			require.Contains(t, used, name, "%s: declared and not used", file)
		}
		require.Equal(t, cloudbuildpb.BuildOptions_MUST_MATCH, build.Options.SubstitutionOption, file)
	}
}

func TestBuild_StepsWaitForStepsThatExistAndEnd(t *testing.T) {
	for _, file := range files {
		build, _ := read(t, file)
		seen := map[string]bool{"-": true}
		for i, step := range build.Steps {
			require.NotEmpty(t, step.Id)
			require.NotEmpty(t, step.WaitFor, "%s: said, not implied", step.Id)
			require.True(t, i == 0 && step.Id == "pins" || after(build, step.Id, "pins"),
				"%s: %s runs before its image is looked at", file, step.Id)
			for _, other := range step.WaitFor {
				require.True(t, seen[other], "%s waits for %s, which is not before it", step.Id, other)
			}
			seen[step.Id] = true
			require.Positive(t, step.Timeout.GetSeconds(), step.Id)
			require.LessOrEqual(t, step.Timeout.GetSeconds(), build.Timeout.GetSeconds(), step.Id)
		}
	}
}

// after reports whether a step can only begin when another has ended.
func after(build *cloudbuildpb.Build, step, other string) bool {
	for _, s := range build.Steps {
		if s.Id == step {
			return slices.ContainsFunc(s.WaitFor, func(w string) bool { return w == other || after(build, w, other) })
		}
	}
	return false
}

func TestBuild_DeploysWhatHasPassedAndWasPlanned(t *testing.T) {
	images, _ := read(t, imaging)
	for _, image := range []string{"front", "pool"} {
		require.True(t, after(images, "scan", "build-"+image), image)
		require.Contains(t, script(images, "build-"+image), "> /workspace/"+image+".digest")
		require.FileExists(t, "../docker/"+image+".Dockerfile")
		require.Contains(t, script(images, "build-"+image), "--file=infra/docker/"+image+".Dockerfile")
	}
	build, _ := read(t, deploying)
	for _, order := range [][2]string{{"plan", "passed"}, {"tls", "plan"}, {"deploy", "tls"}, {"deploy", "plan"},
		{"smoke", "deploy"}} {
		require.True(t, after(build, order[0], order[1]), order)
	}
	require.Contains(t, script(build, "plan"), "-out=/workspace/plan")
	require.Contains(t, script(build, "deploy"), "terraform apply -input=false -lock-timeout=10m /workspace/plan")
	for _, step := range []string{"passed", "tls", "deploy", "smoke"} {
		require.Contains(t, script(build, step), `if [ "${_DEPLOY}" != true ]`, "%s: pull requests only plan", step)
	}
}

func TestBuild_EachRunsAsAnAccountOfItsOwn(t *testing.T) {
	terraform, err := os.ReadFile("../../terraform/build.tf")
	require.NoError(t, err)
	for file, account := range map[string]string{deploying: "${_ACCOUNT}", tests: "${_NAME}-test",
		imaging: "${_NAME}-images"} {
		build, _ := read(t, file)
		require.Equal(t, "projects/$PROJECT_ID/serviceAccounts/"+account+"@$PROJECT_ID.iam.gserviceaccount.com",
			build.ServiceAccount)
		require.Equal(t, cloudbuildpb.BuildOptions_CLOUD_LOGGING_ONLY, build.Options.Logging,
			"an account of one's own needs it")
		for name := range build.Substitutions {
			require.Contains(t, string(terraform), name, "the triggers say it")
		}
	}
	build, _ := read(t, deploying)
	require.Equal(t, build.Substitutions["_NAME"]+"-build", build.Substitutions["_ACCOUNT"])
	images, _ := read(t, imaging)
	require.Len(t, images.Images, 2)
	require.Equal(t, cloudbuildpb.BuildOptions_VERIFIED, images.Options.RequestedVerifyOption, "it leaves its provenance")
}

// What others wrote runs where nothing can be done with it.
func TestBuild_WhoDeploysRunsNothingOfOthers(t *testing.T) {
	build, _ := read(t, deploying)
	for _, step := range build.Steps {
		require.NotRegexp(t, `(?m)(^|[;&|(]|then|do) *(apt|apt-get|npm|npx|pip|docker|make|go)\b|\.ci/|\.sh\b`,
			strings.Join(step.Args, "\n"), step.Id)
	}
	for _, file := range files {
		build, _ := read(t, file)
		for _, step := range build.Steps {
			require.NotRegexp(t, `(curl|wget)[^\n]*\|`, strings.Join(step.Args, "\n"),
				"%s: nothing is run that only its address vouches for", step.Id)
		}
	}
}

// grants are what Terraform calls resources that give somebody a right.
var grants = regexp.MustCompile(`(?m)^resource "(google_\w+_iam_(?:member|binding|policy))" "(\w+)"`)

func TestTerraform_EveryGrantIsAskedWhetherItIsTheTests(t *testing.T) {
	asked, err := os.ReadFile("../../terraform/tests/plan.tftest.hcl")
	require.NoError(t, err)
	_, run, found := strings.Cut(string(asked), `run "a_test_can_do_nothing" {`)
	require.True(t, found)
	run, _, _ = strings.Cut(run, "\n}\n")
	folder, err := filepath.Glob("../../terraform/*.tf")
	require.NoError(t, err)
	count := 0
	for _, file := range folder {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, m := range grants.FindAllStringSubmatch(string(text), -1) {
			require.Regexp(t, m[1]+`\.`+m[2]+`\b`, run)
			count++
		}
	}
	require.Greater(t, count, 8, "the folder is found")
}

// A resource that makes a key knows it, and so does the state.
func TestTerraform_MakesNoKeyThatItsStateWouldHave(t *testing.T) {
	folder, err := filepath.Glob("../../terraform/*.tf")
	require.NoError(t, err)
	require.NotEmpty(t, folder)
	for _, file := range folder {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		require.NotRegexp(t, `"random_|"tls_private_key"|"google_service_account_key"|\bsecret_data\s*=`, string(text), file)
	}
}

// shell is the command that a step's script is given to, in the step's container or in one that it starts.
func shell(step *cloudbuildpb.BuildStep) []string {
	command := append([]string{step.Entrypoint}, step.Args[:len(step.Args)-1]...)
	return command[max(slices.Index(command, "bash"), slices.Index(command, "sh")):]
}

// script is a step's script as its shell gets it.
func script(build *cloudbuildpb.Build, id string) string {
	for _, step := range build.Steps {
		if step.Id == id {
			return strings.ReplaceAll(step.Args[len(step.Args)-1], "$$", "$")
		}
	}
	return ""
}

// What the steps run is checked with the shells and programs that run it; `.ci/run`, which the test step calls, is what
// runs this test.
func TestBuild_ItsScriptsAreSound(t *testing.T) {
	for _, file := range files {
		build, _ := read(t, file)
		for _, step := range build.Steps {
			text := script(build, step.Id)
			cmd := exec.Command(shell(step)[0], "-n")
			cmd.Stdin = strings.NewReader(text)
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s: %s", step.Id, out)
			for _, command := range []string{"terraform", "gcloud"} {
				checkFlags(t, command, text)
			}
		}
	}
	build, _ := read(t, tests)
	require.Contains(t, script(build, "test"), "\n.ci/run\n")
	info, err := os.Stat("../../.ci/run")
	require.NoError(t, err)
	require.NotZero(t, info.Mode()&0o111)
}

var (
	joined  = regexp.MustCompile(`\\\n\s*`)
	flagged = regexp.MustCompile(`\s(--?[a-z][a-z-]+)`)
	overput = regexp.MustCompile(`.\x08|\x1b\[[0-9;]*m`)
)

// renamed are flags that newer versions of a command call otherwise.
var renamed = map[string]string{"--scaling": "--instances"}

// checkFlags looks every flag that a script gives to a command up in the command's own help.
func checkFlags(t *testing.T, command, text string) {
	t.Helper()
	if _, err := exec.LookPath(command); err != nil {
		require.False(t, command == "gcloud" && os.Getenv("CI") == "true", "CI has to have gcloud")
		t.Logf("%s is not on this machine: its flags are not checked", command)
		return
	}
	calls := regexp.MustCompile(`(?m)(?:^|[\s(])` + command + `(?: -chdir=\S+)?((?: [a-z][a-z-]*)+)([^\n|;]*)`)
	for _, call := range calls.FindAllStringSubmatch(joined.ReplaceAllString(text, " "), -1) {
		help := helpOf(t, command, strings.Fields(call[1]))
		if command == "terraform" && strings.HasPrefix(call[1], " apply") {
			help += helpOf(t, command, []string{"plan"}) // whose options it takes as well, as its own help says
		}
		for _, flag := range flagged.FindAllStringSubmatch(call[2], -1) {
			require.True(t, offers(help, flag[1]) || offers(help, renamed[flag[1]]), "%s%s has no %s", command, call[1], flag[1])
		}
	}
}

// offers reports whether a help names a flag, and not just a longer one. gcloud takes --no-x for every --x without a
// value; its help says so with --[no-]x for some of them only.
func offers(help, flag string) bool {
	name, double := strings.CutPrefix(flag, "--")
	forms := regexp.QuoteMeta(flag) + `(?:$|[^\w-])`
	if positive, negated := strings.CutPrefix(name, "no-"); double && negated {
		forms += `|--(?:\[no-\])?` + regexp.QuoteMeta(positive) + `(?:$|[^\w=-])`
	} else if double {
		forms += `|--\[no-\]` + regexp.QuoteMeta(name) + `(?:$|[^\w-])`
	}
	return flag != "" && regexp.MustCompile(`(?:^|[^\w-])(?:`+forms+`)`).MatchString(help)
}

var helps = map[string]string{}

// helpOf is what a command says of itself; the first words that are its sub-commands are known by having a help.
func helpOf(t *testing.T, command string, words []string) string {
	t.Helper()
	for n := len(words); n > 0; n-- {
		key := strings.Join(append([]string{command}, words[:n]...), " ")
		if help, known := helps[key]; known {
			return help
		}
		out, err := exec.Command(command, append(slices.Clone(words[:n]), "--help")...).CombinedOutput()
		if err == nil || command == "terraform" && strings.Contains(string(out), "Usage:") {
			helps[key] = overput.ReplaceAllString(string(out), "")
			return helps[key]
		}
	}
	require.Fail(t, "no such command", "%s %v", command, words)
	return ""
}
