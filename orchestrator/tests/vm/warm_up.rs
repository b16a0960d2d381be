//! Tests what makes the guests of a template warm, with a pool of real VMs.

use std::sync::Arc;

use ironclaw_orchestrator::template::recipe::{Action, Base, Planned, Recipe, Step};
use ironclaw_orchestrator::template::{BuildSpec, Removal, TemplateName, TemplateStore};
use ironclaw_orchestrator::vm::{
    LaunchError, Launcher, Origin, Pool, PoolError, PoolOptions, TemplateGuests, find_guest_agent,
};

use crate::fixture::{config_in, launcher, sh};
use crate::within::within;

/// A template with a warm-up of this script, as a user who is not root. Removed with [`end`](Self::end).
struct Warm {
    name: TemplateName,
    store: TemplateStore,
    launcher: Launcher,
    _snapshots: tempfile::TempDir,
}

impl Warm {
    async fn make(name: &str, script: &str) -> Option<Self> {
        // Its template's packages are there then.
        launcher().await?;
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut config = config_in(directory.path());
        let name: TemplateName = name.parse().unwrap();
        let shell = |script: &str| ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        let actions = [
            Action::Env(vec![("WORD".to_owned(), "aloud".to_owned())]),
            Action::Workdir("/srv/app".to_owned()),
            Action::User("1000".to_owned()),
            Action::Warm(shell(script)),
        ];
        let mut recipe = Recipe::new(Base::Minimal);
        recipe.steps = actions
            .map(|action| Planned {
                step: Step::new("a step".to_owned(), action),
                context: None,
            })
            .into();
        let store = TemplateStore::open(&config.template_path).unwrap();
        let mut guests = TemplateGuests::new(&config, Arc::new(|_| {}), Box::new(|_| {}));
        let spec = BuildSpec::new(find_guest_agent(&config).unwrap());
        config.template = name.clone().into();
        let (store, name) = tokio::task::spawn_blocking(move || {
            let built = store.build_recipe(Some(&name), &spec, &recipe, &mut guests, &mut |_| {});
            built.unwrap();
            (store, name)
        })
        .await
        .unwrap();
        let launcher = Launcher::open(&config, Arc::new(|_| {})).await.unwrap();
        Some(Self {
            name,
            store,
            launcher,
            _snapshots: directory,
        })
    }

    fn end(self) {
        let hash = self.store.remove_name(&self.name).unwrap();
        drop((self.launcher, self._snapshots));
        assert_ne!(self.store.delete(&hash).unwrap(), Removal::WhenUnused);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warm_clone_was_warmed_up_once_more_as_the_user_who_gets_it() {
    let script = "echo $(id -u) $HOME $PWD $WORD >> /tmp/warmed";
    let Some(warm) = Warm::make("warm-up", script).await else {
        return;
    };
    let read = "cat /tmp/warmed; echo $(id -u) $HOME $PWD $WORD";
    let line = "1000 / /srv/app aloud\n";
    for (clones, origin, times) in [(0, Origin::Restored, 1), (1, Origin::Warm, 2)] {
        let options = PoolOptions::new(1).with_warm(clones);
        let pool = Pool::open(warm.launcher.clone(), options).await.unwrap();
        pool.warmup().await.unwrap();
        for _ in 0..2 {
            pool.warmup().await.unwrap();
            let vm = pool.spawn("warmed").await.unwrap();
            assert_eq!(vm.origin(), origin);
            assert_eq!(sh(&vm, read).await, line.repeat(times + 1), "{origin}");
            vm.destroy().await.unwrap();
        }
        pool.close().await;
    }
    warm.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_whose_warm_up_fails_is_not_handed_out_and_other_tiers_serve() {
    // Succeeds in the build and before the snapshot, and in no clone of that.
    let script = "echo says why; test ! -e /tmp/warmed && echo > /tmp/warmed";
    let Some(warm) = Warm::make("warm-up-fails", script).await else {
        return;
    };
    let options = PoolOptions::new(1).with_warm(1);
    let pool = Pool::open(warm.launcher.clone(), options).await.unwrap();
    let error = within("a failure to be told", pool.warmup())
        .await
        .unwrap_err();
    let PoolError::WarmUp(why) = &error else {
        panic!("{error}");
    };
    let LaunchError::WarmUp { printed, .. } = &**why else {
        panic!("{why}");
    };
    assert_eq!(printed, "says why\n");
    assert!(pool.stats().failures > 0, "{:?}", pool.stats());
    let vm = pool.spawn("served").await.unwrap();
    assert_eq!(vm.origin(), Origin::Restored);
    vm.destroy().await.unwrap();
    pool.close().await;
    warm.end();
}
