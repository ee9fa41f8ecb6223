package archive

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"gocloud.dev/blob"
	_ "gocloud.dev/blob/azureblob" // azblob://
	_ "gocloud.dev/blob/fileblob"  // file://
	_ "gocloud.dev/blob/gcsblob"   // gs://
	_ "gocloud.dev/blob/memblob"   // mem://, for tests
	_ "gocloud.dev/blob/s3blob"    // s3://
	"gocloud.dev/gcerrors"

	"weft/sources"
)

// Bucket holds archives. Several goroutines may use it.
type Bucket struct {
	b *blob.Bucket
	// url without its query, in which a secret may stand.
	url string
}

// Open opens a bucket by its URL: file:///DIR, s3://NAME, gs://NAME or azblob://NAME, each with the parameters that
// gocloud.dev knows, such as ?prefix=weft/. It does not connect.
func Open(ctx context.Context, bucket string) (*Bucket, error) {
	u, err := url.Parse(bucket)
	if err != nil || u.Scheme == "" {
		return nil, sources.Fatal("write file:///DIR, s3://NAME, gs://NAME or azblob://NAME", "archives.bucket is no URL of a bucket")
	}
	shown := *u
	shown.RawQuery, shown.User = "", nil
	if u.Scheme == "file" {
		q := u.Query()
		for name, value := range map[string]string{"create_dir": "true", "no_tmp_dir": "true", "metadata": "skip"} {
			if !q.Has(name) {
				q.Set(name, value)
			}
		}
		u.RawQuery = q.Encode()
	}
	b, err := blob.OpenBucket(ctx, u.String())
	if err != nil {
		return nil, explain(shown.String(), "open", err)
	}
	return &Bucket{b: b, url: shown.String()}, nil
}

// Close disconnects.
func (b *Bucket) Close() error { return b.b.Close() }

// String is the bucket's URL without its parameters.
func (b *Bucket) String() string { return b.url }

// Check writes, reads and removes an object.
func (b *Bucket) Check(ctx context.Context) error {
	name := ".weft-check-" + random()
	if err := b.b.WriteAll(ctx, name, []byte("weft check"), nil); err != nil {
		return explain(b.url, "write to", err)
	}
	if _, err := b.b.ReadAll(ctx, name); err != nil {
		return explain(b.url, "read from", err)
	}
	if err := b.b.Delete(ctx, name); err != nil {
		return explain(b.url, "delete from", err)
	}
	return nil
}

// explain adds a remedy to what a person must mend.
func explain(bucket, what string, err error) error {
	err = fmt.Errorf("%s bucket %s: %w", what, bucket, err)
	switch code := gcerrors.Code(err); {
	case code == gcerrors.PermissionDenied || strings.Contains(err.Error(), "permission denied") || strings.Contains(err.Error(), "AccessDenied"):
		return sources.Fatal("give this process the rights to list, read, write and delete objects there", "%w", err)
	case code == gcerrors.ResourceExhausted || strings.Contains(err.Error(), "no space left"):
		return sources.Fatal("make room there, or remove archives with weft archive prune", "%w", err)
	case code == gcerrors.NotFound && what != "read from":
		return sources.Fatal("create the bucket, or correct archives.bucket", "%w", err)
	}
	return err
}

func random() string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// newID is that of a new archive; those of a topic sort by time.
func newID(topic string, now time.Time) string {
	return topic + "/" + now.UTC().Format(timeForm) + "-" + random()
}

// Topics lists the topics of which there are archives.
func (b *Bucket) Topics(ctx context.Context) ([]string, error) {
	return b.folders(ctx, "")
}

// folders lists the names between prefix and the next slash.
func (b *Bucket) folders(ctx context.Context, prefix string) ([]string, error) {
	var names []string
	for it := b.b.List(&blob.ListOptions{Prefix: prefix, Delimiter: "/"}); ; {
		o, err := it.Next(ctx)
		if errors.Is(err, io.EOF) {
			return names, nil
		}
		if err != nil {
			return nil, explain(b.url, "list", err)
		}
		if o.IsDir {
			names = append(names, path.Base(o.Key))
		}
	}
}

// List returns a topic's archives, newest first. What has no manifest is no archive.
func (b *Bucket) List(ctx context.Context, topic string) ([]*Manifest, error) {
	names, err := b.folders(ctx, topic+"/")
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	slices.Reverse(names)
	var all []*Manifest
	for _, name := range names {
		id := topic + "/" + name
		if !idForm.MatchString(id) {
			continue
		}
		m, err := b.Manifest(ctx, id)
		var missing *MissingError
		if errors.As(err, &missing) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return all, nil
}

// MissingError says that there is no archive of that name.
type MissingError struct{ ID, Bucket string }

func (e *MissingError) Error() string {
	return fmt.Sprintf("bucket %s has no archive %s (an archive without its manifest.json is not one; weft archive list shows those that are)", e.Bucket, e.ID)
}

// Manifest returns that of one archive, or a *MissingError.
func (b *Bucket) Manifest(ctx context.Context, id string) (*Manifest, error) {
	if !idForm.MatchString(id) {
		return nil, &MissingError{ID: id, Bucket: b.url}
	}
	text, err := b.b.ReadAll(ctx, id+"/"+manifestName)
	if gcerrors.Code(err) == gcerrors.NotFound {
		return nil, &MissingError{ID: id, Bucket: b.url}
	}
	if err != nil {
		return nil, explain(b.url, "read from", err)
	}
	return decodeManifest(id, text)
}

// write makes the archive exist.
func (b *Bucket) write(ctx context.Context, m *Manifest) error {
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("encode manifest: %w", err)
	}
	err = b.b.WriteAll(ctx, m.ID+"/"+manifestName, text, &blob.WriterOptions{ContentType: "application/json", IfNotExist: true})
	if err != nil {
		return explain(b.url, "write to", err)
	}
	return nil
}

// Remove removes an archive, or what is left of one: the manifest first, so that a half removed one does not exist.
func (b *Bucket) Remove(ctx context.Context, id string) error {
	if !idForm.MatchString(id) {
		return &MissingError{ID: id, Bucket: b.url}
	}
	if err := b.b.Delete(ctx, id+"/"+manifestName); err != nil && gcerrors.Code(err) != gcerrors.NotFound {
		return explain(b.url, "delete from", err)
	}
	for it := b.b.List(&blob.ListOptions{Prefix: id + "/"}); ; {
		o, err := it.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return explain(b.url, "list", err)
		}
		if err := b.b.Delete(ctx, o.Key); err != nil && gcerrors.Code(err) != gcerrors.NotFound {
			return explain(b.url, "delete from", err)
		}
	}
}

// abandoned is how old what has no manifest must be to be taken for left over: a create that is under way has none yet.
const abandoned = 24 * time.Hour

// Prune removes all but the newest archives of a topic, and what unfinished ones have left over. It returns the IDs removed.
func (b *Bucket) Prune(ctx context.Context, topic string, keep int, now time.Time) (removed []string, err error) {
	all, err := b.List(ctx, topic)
	if err != nil {
		return nil, err
	}
	exists := map[string]bool{}
	for _, m := range all {
		exists[m.ID] = true
	}
	names, err := b.folders(ctx, topic+"/")
	if err != nil {
		return nil, err
	}
	var old []string
	for _, name := range names {
		id := topic + "/" + name
		if !idForm.MatchString(id) || exists[id] {
			continue
		}
		made, err := time.Parse(timeForm, name[:len(timeForm)])
		if err == nil && now.Sub(made) > abandoned {
			old = append(old, id)
		}
	}
	for i, m := range all {
		if i >= keep {
			old = append(old, m.ID)
		}
	}
	for _, id := range old {
		if err := b.Remove(ctx, id); err != nil {
			return removed, err
		}
		removed = append(removed, id)
	}
	return removed, nil
}
