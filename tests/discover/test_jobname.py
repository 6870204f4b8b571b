"""Names of jobs: after the program that does the work, whatever stands around it."""

import pytest
from hypothesis import given, strategies as st

from aura_agent.discover.jobname import name_of

WORDS = (
    *(
        "sudo",
        "su",
        "-c",
        "-u",
        "--",
        "-",
        "flock",
        "env",
        "A=b",
        "docker",
        "exec",
        "run",
        "python3",
        "-m",
        "x.y",
        "sh",
    ),
    *("'a; b'", "run-parts", "systemctl", "is-active", "command", "-v", "make", "kubectl", "ssh", "npm", "java", "\n"),
)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("/usr/local/bin/backup.sh --full", "backup"),
        ("cd /srv && ./manage.py clearsessions >> log 2>&1", "manage-clearsessions"),
        ("test -x /usr/sbin/anacron || { cd / && run-parts --report /etc/cron.daily; }", "cron.daily"),
        ("[ -x /usr/lib/php/sessionclean ] && if [ ! -d /run/x ]; then /usr/lib/php/sessionclean; fi", "sessionclean"),
        ("python3 -u /opt/report.py -v", "report"),
        ("/usr/bin/env A=b python3 -m billing", "billing"),
        ("nice -n 10 ionice -c2 -n7 /usr/bin/rsync -a x y", "rsync"),
        ("flock -n /var/lock/x timeout -s INT 1h sync-it", "sync-it"),
        ("sudo -u www-data php /srv/artisan schedule:run", "artisan-schedule:run"),
        ("bash -c 'cd /x; ./foo.sh'", "foo"),
        ("bash -lc 'foo'", "foo"),
        ("perl -e 'sleep int(rand(43200))' && certbot -q renew", "certbot"),
        ("A=1 >log 2>&1 cmd", "cmd"),
        ("mysqldump db > /b-$(date +%F).sql", "mysqldump"),
        ("echo hi", None),
        ("bash", None),
        ("", None),
        # what prepares the work, or tells of it
        ("sleep 30; /opt/y.sh", "y"),
        ("sleep $((RANDOM % 60)) && /opt/y.sh", "y"),
        ("/bin/sleep 30", "sleep"),
        ("mkdir -p /b; cd /b || exit 1; umask 077; ulimit -n 1000; set -e; /opt/y.sh", "y"),
        ("export A=b; . ./env.sh; exec ./y.sh", "y"),
        ("rm -f /x; /opt/y.sh; logger done", "y"),
        ("rm -rf /tmp/x", "rm"),
        ("[[ -d /x ]] && test -e /y && ! pgrep y && /opt/y.sh", "y"),
        ("command -v y >/dev/null && y --now", "y"),
        ("echo start | logger; y", "y"),
        ("cat /list | grep x | xargs -n 1 -P 4 fetch-it", "fetch-it"),
        ("date +%F >> /log; y 2>&1 | tee -a /log | mail -s report bob", "y"),
        ('for f in /in/*; do convert-it "$f"; done', "convert-it"),
        ("while read x; do y; done < /z", "y"),
        ("if systemctl is-active -q x; then y; fi", "y"),
        ("HOST=$(hostname) y", "y"),
        ("(cd /x; ./y)", "y"),
        ("test -x /usr/sbin/anacron || run-parts /etc/cron.weekly", "cron.weekly"),
        ("perl -e 'sleep rand(3600)' && certbot renew", "certbot"),
        # runners
        ("exec nice -n 19 ionice -c 3 y", "y"),
        ("nice -19 y", "y"),
        ("flock -n /l -c 'cd /x && ./y.sh'", "y"),
        ("(flock -n 9 || exit 1; y) 9>/l", "y"),
        ("flock --wait 10 /l timeout --signal=KILL 1h y", "y"),
        ("timeout -k 5 30m y", "y"),
        ("chronic y", "y"),
        ("sudo -H -u bob -- y", "y"),
        ("sudo -iu bob y", "y"),
        ("sudo --user=bob A=b y", "y"),
        ("su - bob -c 'cd /x; y --all'", "y"),
        ("su -s /bin/sh -c 'exec y' bob", "y"),
        ("su bob -s /bin/bash -c y", "y"),
        ("runuser -u bob -- y", "y"),
        ("runuser -l bob -c 'y x'", "y"),
        ("env -i PATH=/bin A=b y", "y"),
        ("/usr/bin/time -p y", "y"),
        ("stdbuf -oL y", "y"),
        ("systemd-run --wait -p MemoryMax=1G --uid bob y", "y"),
        ("setpriv --reuid 5 y", "y"),
        ("poetry run y", "y"),
        ("bundle exec rake db:clean", "rake-db:clean"),
        ("ssh -i /k -p 22 bob@h '/opt/y.sh --all'", "y"),
        ("ssh h", "ssh"),
        # shells and interpreters
        ('sh -c "sleep 5; /opt/y.sh"', "y"),
        ("bash -lc 'source ~/.profile && y'", "y"),
        ("bash -eu -o pipefail -c 'y | z'", "y"),
        ("/bin/bash -x /opt/y.sh a", "y"),
        ("sh", None),
        ("python3 -m app.tasks.report", "app.tasks.report"),
        ("/srv/v/bin/python3.12 -W ignore -um app.tasks.report --x", "app.tasks.report"),
        ("/usr/bin/python3 /opt/x/report.py", "report"),
        ("python3 -c 'import app; app.run()'", "python3"),
        ("php -d memory_limit=1G -f /srv/y.php", "y"),
        ("php8.2 -c /etc/php.ini /srv/y.php", "y"),
        ("php artisan schedule:run >> /dev/null 2>&1", "artisan-schedule:run"),
        ("cd /srv && php bin/console -q app:sync", "console-app:sync"),
        ("node dist/job.js", "job"),
        ("node -r dotenv/config --env-file .env dist/job.mjs", "job"),
        ("npm --prefix /srv run nightly", "npm-nightly"),
        ("npx y", "y"),
        ("java -Xmx1g -jar /opt/app.jar x", "app"),
        ("java -cp /a.jar:/b.jar org.example.Nightly", "org.example.Nightly"),
        ("perl -I /lib /opt/y.pl", "y"),
        ("perl -we 'print 1'", "perl"),
        ("ruby -W0 /opt/y.rb", "y"),
        ("Rscript --vanilla /opt/y.R", "y"),
        ("make -C /srv/x nightly", "make-nightly"),
        ("make", "make"),
        ("busybox y", "y"),
        # containers and services
        ("docker exec -i -u www-data c php occ files:scan --all", "occ-files:scan"),
        ("docker exec c /opt/y.sh", "y"),
        ("docker run --rm -v /a:/b --network host registry.example:5000/x/backup:1.2", "backup"),
        ("docker run --rm -it x/backup@sha256:00 --full", "backup"),
        ("docker run --rm postgres:16 pg_dump -h db x", "pg_dump"),
        ("docker-compose -f /srv/c.yml exec -T web python manage.py clearsessions", "manage-clearsessions"),
        ("docker compose --project-name x run --rm nightly", "nightly"),
        ("docker system prune -f", "docker"),
        ("docker start -a backup", "backup"),
        ("podman exec c sh -c 'y | z'", "y"),
        ("kubectl -n x exec deploy/y -- /opt/z.sh", "z"),
        ("systemctl restart --no-block y.service", "y"),
        ("service y restart", "y"),
        # names as they are
        ("curl -fsS https://example.com/cron/secret", "curl"),
        ("/usr/lib/apt/apt.systemd.daily install", "apt.systemd.daily"),
        ("/opt/run.parts.sh", "run.parts"),
        ("$HOME/bin/y.sh > /dev/null", "y"),
        ('"/opt/my tools/y.sh"', "y"),
        ("/opt/.sh", ".sh"),
        ("y & ", "y"),
        ("'y", "y"),
    ],
)
def test_a_job_is_called_after_what_it_is_about(line: str, name: str | None) -> None:
    """Not after the shell, the interpreter or the runner around it."""
    assert name_of(line) == name


@given(st.text("ab -c'\"$();|&<>=/.1", max_size=40) | st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join))
def test_a_name_is_told_of_any_line(line: str) -> None:
    """Without an error, and the same one each time."""
    name = name_of(line)

    assert name is None or name
    assert name_of(line) == name
