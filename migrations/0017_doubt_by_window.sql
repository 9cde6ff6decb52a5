-- Creates in doubt are looked for by window now, together with those of other accounts: remote_tasks_of_run serves both.
DROP INDEX remote_tasks_in_doubt;
