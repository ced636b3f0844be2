"""Parts of the commands about versions and backups that the web page uses too."""
