# Python 2.7: Autobahn's wstest out of the directory that run.sh installs it into; `zope` is only found where that is a site directory.
import os
import site

site.addsitedir(os.environ["AUTOBAHN_SITE"])
from autobahntestsuite.wstest import run  # noqa: E402

run()
