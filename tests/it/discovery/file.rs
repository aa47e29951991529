//! A file, changed in all usual ways.

use std::os::unix::fs::symlink;
use std::path::Path;

use tempfile::TempDir;
use wsluice::config::Scheme;
use wsluice::discovery::{DiscoveryErrorKind, file::FileWatch};

use super::Discovery;
use super::servers::put_in_place;

fn discover(path: &Path) -> Discovery {
    let file = FileWatch { path: path.to_owned(), scheme: Scheme::Ws };
    Discovery::start(|outlet| file.run(outlet))
}

#[tokio::test]
async fn a_file_is_followed_through_renames_and_rewrites() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("chat.yaml");
    std::fs::write(&path, "- ws://a:1\n").unwrap();
    let discovery = discover(&path);
    discovery.becomes(&["ws://a:1 1"]).await;
    put_in_place(&path, "- ws://a:1\n- { url: ws://b:1, weight: 3 }\n");
    discovery.becomes(&["ws://a:1 1", "ws://b:1 3"]).await;
    // In place, with as many bytes as before.
    std::fs::write(&path, "- ws://a:1\n- { url: ws://c:1, weight: 4 }\n").unwrap();
    discovery.becomes(&["ws://a:1 1", "ws://c:1 4"]).await;
    put_in_place(&path, r#"[{"targets": ["d:1"], "labels": {"__wsluice_weight__": "2", "env": "x"}}]"#);
    discovery.becomes(&["ws://d:1 2"]).await;
}

#[tokio::test]
async fn a_directory_swapped_by_symlink_is_followed_as_in_kubernetes() {
    let dir = TempDir::new().unwrap();
    let version = |name: &str, text: &str| {
        std::fs::create_dir(dir.path().join(name)).unwrap();
        std::fs::write(dir.path().join(name).join("chat.yaml"), text).unwrap();
        symlink(name, dir.path().join("..data_tmp")).unwrap();
        std::fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
    };
    version("..1", "- ws://a:1\n");
    symlink("..data/chat.yaml", dir.path().join("chat.yaml")).unwrap();
    let discovery = discover(&dir.path().join("chat.yaml"));
    discovery.becomes(&["ws://a:1 1"]).await;
    version("..2", "- ws://b:1\n");
    std::fs::remove_dir_all(dir.path().join("..1")).unwrap();
    discovery.becomes(&["ws://b:1 1"]).await;
}

#[tokio::test]
async fn what_is_wrong_missing_or_empty_leaves_the_last_good_list() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("chat.yaml");
    let discovery = discover(&path);
    discovery.fails(DiscoveryErrorKind::NotFound).await;
    put_in_place(&path, "- ws://a:1\n");
    discovery.becomes(&["ws://a:1 1"]).await;
    for (text, reason) in [("- ws://a:1\n- ws://b:", DiscoveryErrorKind::Malformed), ("[]", DiscoveryErrorKind::Empty)]
    {
        std::fs::write(&path, text).unwrap();
        discovery.fails(reason).await;
    }
    std::fs::write(&path, vec![b'#'; (1 << 20) + 1]).unwrap();
    discovery.fails(DiscoveryErrorKind::TooLarge).await;
    std::fs::remove_file(&path).unwrap();
    put_in_place(&path, "- ws://b:1\n");
    discovery.becomes(&["ws://b:1 1"]).await;
    assert_eq!(discovery.lists(), [["ws://a:1 1"], ["ws://b:1 1"]]);
    discovery.answers().await;
}

#[tokio::test]
async fn an_empty_list_is_believed_where_that_is_expected() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("chat.yaml");
    put_in_place(&path, "- ws://a:1\n");
    let file = FileWatch { path: path.clone(), scheme: Scheme::Ws };
    let discovery = Discovery::start_as(true, |outlet| file.run(outlet));
    discovery.becomes(&["ws://a:1 1"]).await;
    put_in_place(&path, "[]");
    discovery.becomes(&[]).await;
}
