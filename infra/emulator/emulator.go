// Package emulator runs the Firestore emulator for tests.
package emulator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"cloud.google.com/go/firestore"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

const (
	jar   = "platform/cloud-firestore-emulator/cloud-firestore-emulator.jar"
	class = "com.google.cloud.datastore.emulator.firestore.CloudFirestore"

	// readyWithin bounds a start. An emulator that has only just come up takes seconds for a call on a busy machine, longer
	// than the calls of a service may: it isn't ready until its calls take less than readyCall.
	readyWithin = 2 * time.Minute
	readyCall   = 250 * time.Millisecond
)

// ErrMissing says that this machine has no emulator.
var ErrMissing = errors.New("the Firestore emulator or java is not installed")

// Command returns the command line of an emulator on a port of the loopback.
func Command(port string) ([]string, error) {
	path, err := findJar()
	if err != nil {
		return nil, err
	}
	return []string{"java", "-cp", path, class, "--host=127.0.0.1", "--port=" + port}, nil
}

// Ready waits until the emulator at an address answers, and as fast as the real one would.
func Ready(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	if err := waitOk(ctx, "http://"+addr+"/"); err != nil {
		return err
	}
	client, err := firestore.NewClient(ctx, "warm-up", option.WithEndpoint(addr), option.WithoutAuthentication(),
		option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())))
	if err != nil {
		return err
	}
	defer client.Close()
	for {
		start := time.Now()
		if err := calls(ctx, client); err != nil {
			return fmt.Errorf("the emulator does not come up: %w", err)
		}
		if time.Since(start) < readyCall {
			return nil
		}
	}
}

// calls makes one of each kind of call that the service makes.
func calls(ctx context.Context, client *firestore.Client) error {
	all := client.Collection("warm-up")
	doc := all.Doc("one")
	if _, err := doc.Set(ctx, map[string]any{"at": time.Now()}); err != nil {
		return err
	}
	err := client.RunTransaction(ctx, func(_ context.Context, tx *firestore.Transaction) error {
		if _, err := tx.Get(doc); err != nil {
			return err
		}
		return tx.Set(doc, map[string]any{"at": time.Now()})
	})
	if err != nil {
		return err
	}
	if _, err = all.Where("at", ">", time.Time{}).Documents(ctx).GetAll(); err != nil {
		return err
	}
	_, err = doc.Delete(ctx)
	return err
}

func findJar() (string, error) {
	if _, err := exec.LookPath("java"); err != nil {
		return "", ErrMissing
	}
	roots := []string{"/usr/lib/google-cloud-sdk", "/usr/share/google-cloud-sdk", "/opt/google-cloud-sdk"}
	if gcloud, err := exec.LookPath("gcloud"); err == nil {
		if real, err := filepath.EvalSymlinks(gcloud); err == nil {
			roots = append(roots, filepath.Dir(filepath.Dir(real)))
		}
	}
	for _, root := range roots {
		if path := filepath.Join(root, jar); exists(path) {
			return path, nil
		}
	}
	return "", ErrMissing
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// waitOk waits until the emulator says that it serves.
func waitOk(ctx context.Context, url string) error {
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for ; ctx.Err() == nil; time.Sleep(50 * time.Millisecond) {
		answer, err := client.Get(url)
		if err != nil {
			continue
		}
		body, _ := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		if answer.StatusCode == http.StatusOK && string(body) == "Ok\n" {
			return nil
		}
	}
	return fmt.Errorf("the emulator does not serve: %w", ctx.Err())
}
